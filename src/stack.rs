//! The page: every layer that a request passes, outermost first, and why it stands there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tower::util::{BoxCloneSyncService, option_layer};
use tower::{Layer, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;

use crate::call::{Call, Reply};
use crate::error::GatewayError;
use crate::metrics::Metrics;
use crate::middleware::accounting::{AccountingLayer, Books};
use crate::middleware::admission::{AdmissionLayer, Rules, Ways};
use crate::middleware::api::{self, ApiLayer};
use crate::middleware::auth::AuthLayer;
use crate::middleware::cache::{self, CacheLayer};
use crate::middleware::content::ContentLayer;
use crate::middleware::explain::Explain;
use crate::middleware::heartbeat::HeartbeatLayer;
use crate::middleware::own_usage::OwnUsageLayer;
use crate::middleware::refusals::RefusalsLayer;
use crate::middleware::respond::RespondLayer;
use crate::middleware::route::{self, RouteLayer};
use crate::middleware::telemetry::TelemetryLayer;
use crate::server::HttpService;
use crate::store::keyring::CurrentKeyring;
use crate::traces::Traces;
use crate::upstream::Dispatch;

/// What the layers are built from.
pub struct Parts {
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The share of requests without a fault that are logged, beside all the others; `None`: none is.
    pub access_log: Option<f64>,
    /// Where traces of requests go; `None`: none are made.
    pub traces: Option<Arc<Traces>>,
    /// Cancelled when streams must end.
    pub deadline: CancellationToken,
    /// The bounds of request heads.
    pub route: route::Params,
    /// Who may call.
    pub keyring: CurrentKeyring,
    /// The bounds of request bodies.
    pub api: api::Params,
    /// How often a stream without content shows that it is alive; `None`: never.
    pub heartbeat: Option<Duration>,
    /// What each call may use.
    pub rules: Arc<Rules>,
    /// What is written down of it.
    pub books: Arc<Books>,
    /// What is answered without an upstream; `None`: nothing.
    pub cache: Option<cache::Params>,
    /// The upstreams.
    pub dispatch: Dispatch,
}

/// Builds the data plane's service.
pub fn build(parts: Parts) -> impl HttpService + Sync {
    let metrics = Arc::clone(&parts.metrics);
    let (ledger, budgets) = (parts.books.ledger.reader(), &parts.rules.budgets);
    let refusals = RefusalsLayer::new(parts.books.ledger.clone());
    let own_usage = OwnUsageLayer::new(ledger, Arc::clone(budgets));
    let ways = Arc::new(parts.dispatch.clone());
    let content = parts.traces.as_ref().and_then(|traces| traces.content());
    let cache = parts
        .cache
        .map(|params| CacheLayer::new(params, Arc::new(parts.dispatch.clone())));
    let lookup = cache.as_ref().map(CacheLayer::lookup);

    // From here on a call is typed: who asks for what, of which model. Read from the bottom of this function upwards
    // to follow an answer.
    //
    // Innermost, dispatch finds the route of a call, and tries the route's targets until one of them has answered; all
    // that is tried again is in there.
    let innermost = parts.dispatch.map_err(GatewayError::from);
    // What others have asked before, or are asking now, is answered in the upstreams' place: only by what has come through
    // all tries in order.
    let cached = option_layer(cache).layer(innermost);
    // Accounting stands close to the upstreams and sees what they really sent, and around the cache, so that nothing is
    // served that is not in the ledger. All tries of a call are one row there.
    let accounted = AccountingLayer::new(parts.books).layer(cached);
    // Only what has been waiting for long shows that it is alive; what it waits for may be tried again meanwhile.
    let alive = option_layer(parts.heartbeat.map(HeartbeatLayer::new)).layer(accounted);
    // A call that may not be made, by a limit or a budget, is turned away before it waits for anything or an open row is made.
    let admitted = AdmissionLayer::new(parts.rules, ways).layer(alive);
    // What is answered already uses nothing: it is found before limits of tokens and budgets are asked.
    let found = option_layer(lookup).layer(admitted);
    // What a key has used is told from the ledger: it goes to no upstream, and costs nothing itself.
    let told = own_usage.layer(found);
    // Where what is said may be seen in traces, it is heard where it comes from the client, and as it goes to it.
    let heard = option_layer(content.map(ContentLayer::new)).layer(told);
    // Boxed once, here, to keep the stack's type and the compiler's work small.
    let calls: BoxCloneSyncService<Call, Reply, GatewayError> = BoxCloneSyncService::new(heard);

    // The hinge: the body is read and inspected only for callers that are known.
    let api = ApiLayer::new(parts.api).layer(calls);
    // Authentication costs the head alone, and the same for everyone.
    let auth = AuthLayer::new(parts.keyring).layer(api);
    // Whoever is known and turned away, here or further in, is written down.
    let noted = refusals.layer(auth);
    // What is asked for is decided once, before anyone decides by it. The head's bounds hold here.
    let route = RouteLayer::new(parts.route).layer(noted);
    // Errors become answers inside of telemetry, which reports what the client saw.
    let respond = RespondLayer::new(parts.deadline).layer(route);
    // A panic is a 500 for one request, and counted like any other answer.
    let catch_panic = CatchPanicLayer::custom(move |_| panicked(&metrics)).layer(respond);
    // Outermost: one id, one count, one log line and one span for whatever happens.
    TelemetryLayer::new(parts.metrics, parts.access_log)
        .with_traces(parts.traces)
        .layer(catch_panic)
}

impl Ways for Dispatch {
    fn label(&self, model: &str) -> Option<Arc<str>> {
        Self::label(self, model)
    }

    fn only_upstream(&self, call: &Call) -> Option<Arc<str>> {
        Self::only_upstream(self, call)
    }

    fn each_name(&self, model: &str, see: &mut dyn FnMut(&str)) {
        Self::each_name(self, model, see);
    }
}

impl cache::Ways for Dispatch {
    fn label(&self, call: &Call) -> Option<Arc<str>> {
        Self::label(self, call.routed_model()?)
    }

    fn each_primary(&self, call: &Call, see: &mut dyn FnMut(&[u8])) {
        Self::each_primary(self, call, |member, model| {
            see(member.name.as_bytes());
            see(&member.identity.to_le_bytes());
            see(model.unwrap_or_default().as_bytes());
        });
    }

    fn primaries(&self, call: &Call) -> Vec<(Arc<str>, Arc<str>)> {
        let mut primaries = Vec::new();
        let asked = call.model.as_deref().unwrap_or_default();
        Self::each_primary(self, call, |member, renamed| {
            primaries.push((Arc::clone(&member.name), renamed.unwrap_or(asked).into()));
        });
        primaries
    }
}

fn panicked(metrics: &Metrics) -> Response<Full<Bytes>> {
    metrics.panicked();
    let explanation = GatewayError::Panic.explain();
    let mut response = explanation.response(None).map(Full::new);
    response.extensions_mut().insert(explanation.cause);
    response
}
