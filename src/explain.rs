//! What would become of a call, told without making it: the same head, key and body are looked at by the same functions as
//! in the stack, in the same order, and limits, budgets and routes are asked what they would say.
//!
//! Nothing is consumed: no limit and no budget, no turn of a credential and no trial of an endpoint; nothing is learnt,
//! counted or written down. What comes later than the first refusal is told all the same, as far as it can be known.

mod words;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::request::Parts as HeadParts;
use http_body_util::Full;

use crate::admin::Question;
use crate::call::{Authenticated, Call, Caller, Record, RequestId};
use crate::error::GatewayError;
use crate::middleware::accounting::{AccountingError, Books};
use crate::middleware::admission::{self, Rooms, Rules, Whose};
use crate::middleware::api::{self, ApiError};
use crate::middleware::auth::{self, AuthError};
use crate::middleware::cache;
use crate::middleware::route;
use crate::openai::endpoint::{Endpoint, Target};
use crate::report::outlook::Outlook;
use crate::secret::Secret;
use crate::stack;
use crate::store::directory::{Directory, Found};
use crate::store::keyring::KeyParams;
use crate::store::ledger::LedgerError;
use crate::upstream::{Dispatch, routing};

/// Explains calls by what one stack goes by.
pub struct Explainer {
    route: route::Params,
    api: api::Params,
    rules: Arc<Rules>,
    books: Arc<Books>,
    cache: Option<cache::Params>,
    dispatch: Dispatch,
    directory: Arc<Directory>,
}

/// What was found out of a call, in the order of the stack.
#[derive(Default)]
struct Findings {
    found: Option<Found>,
    /// Whether the key may use the path.
    may_use_path: Option<bool>,
    /// Whether the key may use the model.
    may_use_model: Option<bool>,
    target: Option<Target>,
    call: Option<Call>,
    admission: Option<admission::Preview>,
    /// Whether anything is kept at all.
    has_cache: bool,
    /// `None`: nobody has looked.
    cached: Option<cache::Preview>,
    way: Option<routing::Preview>,
    /// What is wrong with the request itself.
    faulty: Option<GatewayError>,
    /// What the client would hear instead of an answer.
    refused: Option<GatewayError>,
}

/// How a request was read.
struct Read {
    call: Result<Call, ApiError>,
    /// Why it may not use its model.
    denied: Option<ApiError>,
}

impl Explainer {
    /// Explains by what a stack is about to be built from.
    pub fn new(parts: &stack::Parts, directory: Arc<Directory>) -> Self {
        Self {
            route: parts.route,
            api: parts.api,
            rules: Arc::clone(&parts.rules),
            books: Arc::clone(&parts.books),
            cache: parts.cache.clone(),
            dispatch: parts.dispatch.clone(),
            directory,
        }
    }

    /// Tells what would become of a call.
    pub async fn explain(&self, question: Question) -> Outlook {
        let Question { key, request } = question;
        let (head, body) = request.into_parts();
        let findings = self.look(&key, head.clone(), body).await;
        words::outlook(&head, &key, findings)
    }

    async fn look(&self, key: &Secret, head: HeadParts, body: Bytes) -> Findings {
        let mut findings = Findings {
            found: self.directory.find(key.expose()),
            has_cache: self.cache.is_some(),
            ..Findings::default()
        };
        let target = match route::read(&head, self.route) {
            Ok(target) => target,
            Err(error) => {
                findings.faulty = Some(error.into());
                return findings;
            }
        };
        let known = findings.authenticate(&self.directory, &target, head.uri.path());
        let caller = known.map(|known| known.caller);
        findings.target = Some(target.clone());
        let read = self.read(caller.as_ref(), &target, head, body).await;
        findings.refuse(read.denied.map(GatewayError::from));
        let call = match read.call {
            Ok(call) => call,
            Err(error) => {
                findings.faulty = Some(error.into());
                return findings;
            }
        };
        if let (Some(caller), Some(model)) = (&caller, &call.model) {
            findings.may_use_model = Some(caller.may_use(model));
        }
        if call.endpoint != Endpoint::OwnUsage {
            let rooms = match &caller {
                Some(_) => {
                    let whose = Whose::of(&call, &self.dispatch);
                    Some(admission::rooms(&self.rules, whose).await)
                }
                None => None,
            };
            if let Some(cache) = self.cache.as_ref().filter(|_| !call.endpoint.is_listing()) {
                let preview = cache::preview(cache, &call, &self.dispatch).await;
                findings.cached = Some(preview);
            }
            self.preview(&mut findings, &call, rooms);
        }
        findings.call = Some(call);
        findings
    }

    /// Reads the request as the stack would, and where that ends at a model that the key may not use, once more for all
    /// that can be said besides.
    async fn read(
        &self,
        caller: Option<&Arc<Caller>>,
        target: &Target,
        head: HeadParts,
        body: Bytes,
    ) -> Read {
        let read = |caller: &Arc<Caller>| {
            let request = Authenticated {
                caller: Arc::clone(caller),
                record: Arc::new(Record::new(RequestId::fresh(), Instant::now())),
                target: target.clone(),
                parts: head.clone(),
                body: Full::new(body.clone()),
            };
            api::read(request, self.api)
        };
        let own = caller.cloned().unwrap_or_else(|| Arc::new(unknown()));
        match read(&own).await {
            Err(denied @ ApiError::ModelNotAllowed { .. }) => {
                let unbound = Arc::new(unbound(&own));
                Read {
                    call: read(&unbound).await,
                    denied: Some(denied),
                }
            }
            call => Read { call, denied: None },
        }
    }

    /// Asks those behind the hinge, where the key is known by what is left of its limits.
    fn preview(&self, findings: &mut Findings, call: &Call, rooms: Option<Rooms>) {
        let is_answered = findings
            .cached
            .as_ref()
            .is_some_and(|cached| cached.is_answered);
        if let Some(rooms) = rooms {
            let (rules, ways) = (Arc::clone(&self.rules), Arc::new(self.dispatch.clone()));
            let mut admission = admission::preview(rules, ways, call, is_answered, rooms);
            findings.refuse(admission.refused.take().map(GatewayError::from));
            findings.admission = Some(admission);
        }
        if !self.books.ledger.is_ready() {
            let error = AccountingError(LedgerError::Unwritable);
            findings.refuse(Some(error.into()));
        }
        if call.endpoint.is_listing() {
            return;
        }
        if let Some(cached) = &findings.cached {
            let refused = cached.refused.map(GatewayError::from);
            findings.refuse(refused);
        }
        match self.dispatch.preview(call) {
            // Whoever is answered here does not mind who else could.
            Ok(way) if is_answered => findings.way = Some(way),
            Err(_) if is_answered => {}
            Ok(mut way) => {
                findings.refuse(way.refused.take().map(GatewayError::from));
                findings.way = Some(way);
            }
            Err(error) => findings.refuse(Some(error.into())),
        }
    }
}

impl Findings {
    /// Notes why the client gets no answer, unless it had heard something else before.
    fn refuse(&mut self, error: Option<GatewayError>) {
        self.refused = self.refused.take().or(error);
    }

    /// Looks whether the key opens the path, and returns what the ring knows of it.
    fn authenticate(
        &mut self,
        directory: &Directory,
        target: &Target,
        path: &str,
    ) -> Option<KeyParams> {
        let digest = self.found.as_ref().map(|found| found.digest);
        let ring = directory.ring().load_full();
        let Some(known) = digest.and_then(|digest| ring.find(&digest).cloned()) else {
            self.refuse(Some(AuthError::Unknown { prefix: None }.into()));
            return None;
        };
        let error = auth::admit(&known, SystemTime::now(), target, path).err();
        self.may_use_path = match &error {
            None => Some(true),
            Some(AuthError::Path { .. }) => Some(false),
            Some(_) => None,
        };
        self.refuse(error.map(GatewayError::from));
        Some(known)
    }
}

/// Returns who calls with a key that is not known: there is no name to keep anything under, and no bound to judge by.
fn unknown() -> Caller {
    Caller::configured("")
}

/// Returns a caller who is the same, and may use every model.
fn unbound(caller: &Caller) -> Caller {
    Caller {
        key: Arc::clone(&caller.key),
        key_origin: caller.key_origin,
        team: caller.team.clone(),
        team_origin: caller.team_origin,
        models: Vec::new(),
        keeps: caller.keeps,
    }
}
