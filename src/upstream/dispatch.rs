//! The innermost service: chooses the upstream of a call and asks it.
//!
//! A model goes where the most specific matching route sends it, or else to the first upstream that serves it. A path
//! without a model goes to the upstream that claims it most specifically, among equals to the first.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use tower::Service;

use super::{Upstream, UpstreamError};
use crate::call::{Call, Caller, Record, Reply};
use crate::openai::endpoint::Endpoint;
use crate::openai::models::{Engine, List, Model};
use crate::pattern::{Pattern, most_specific};

/// How long a listing waits for one upstream's models. One that is away must not hide the others'.
const LISTING_TIMEOUT: Duration = Duration::from_secs(5);

/// An upstream and what it takes.
pub struct Member {
    /// Its name.
    pub name: Arc<str>,
    /// The models that it serves.
    pub models: Vec<Pattern>,
    /// The pass-through paths that it takes.
    pub paths: Vec<Pattern>,
    /// The upstream itself.
    pub upstream: Arc<dyn Upstream>,
}

/// A model's way.
pub struct Route {
    /// The models that go this way.
    pub model: Pattern,
    /// The index of the upstream among the members.
    pub member: usize,
    /// The name that the upstream knows the model by; `None`: the name asked for.
    pub rename: Option<Arc<str>>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// Nothing serves this model.
    #[error("no route for the model")]
    NoRoute {
        /// The model asked for.
        model: String,
    },
    /// No upstream claims this path.
    #[error("no upstream takes {path}")]
    NoClaim {
        /// The method asked.
        method: Method,
        /// The path asked.
        path: String,
    },
    /// The chosen upstream failed.
    #[error("upstream {name} failed")]
    Upstream {
        /// Its name.
        name: Arc<str>,
        /// How.
        source: UpstreamError,
    },
}

/// The upstreams of a gateway, as a service.
#[derive(Clone)]
pub struct Dispatch {
    table: Arc<Table>,
}

struct Table {
    members: Vec<Member>,
    /// The most specific first.
    routes: Vec<Route>,
}

/// Where a call goes.
struct Choice<'a> {
    member: &'a Member,
    model: Option<Arc<str>>,
    /// The configured pattern that led there.
    label: Arc<str>,
}

// === impl Dispatch ===

impl Dispatch {
    /// Builds the table. Routes of equal specificity keep their order.
    pub fn new(members: Vec<Member>, mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.model.specificity()));
        Self {
            table: Arc::new(Table { members, routes }),
        }
    }

    /// Returns each upstream's name and whether it could be asked now.
    pub fn readiness(&self) -> impl Iterator<Item = (&str, bool)> {
        self.table
            .members
            .iter()
            .map(|member| (&*member.name, member.upstream.is_ready()))
    }
}

impl Service<Call> for Dispatch {
    type Response = Reply;
    type Error = DispatchError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Reply, DispatchError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let table = Arc::clone(&self.table);
        Box::pin(async move {
            match call.endpoint {
                Endpoint::Models => Ok(json(&List::new(table.list(&call.caller).await))),
                Endpoint::Engines => {
                    let models = table.list(&call.caller).await;
                    Ok(json(&List::new(models.iter().map(Engine::from).collect())))
                }
                Endpoint::Model(name) => Ok(json(
                    &table.describe(&name, &call.caller, &call.record).await?,
                )),
                Endpoint::Engine(name) => Ok(json(&Engine::from(
                    &table.describe(&name, &call.caller, &call.record).await?,
                ))),
                _ => table.ask(call).await,
            }
        })
    }
}

// === impl Table ===

impl Table {
    /// Returns where a model goes.
    fn route(&self, model: &str) -> Result<Choice<'_>, DispatchError> {
        if let Some(route) = self.routes.iter().find(|route| route.model.matches(model)) {
            let model = route.rename.clone().unwrap_or_else(|| model.into());
            let label = route.model.as_str().into();
            return Ok(Choice {
                member: &self.members[route.member],
                model: Some(model),
                label,
            });
        }
        let served = |member: &&Member| member.models.iter().any(|pattern| pattern.matches(model));
        let member = self
            .members
            .iter()
            .find(served)
            .ok_or_else(|| DispatchError::NoRoute {
                model: model.to_owned(),
            })?;
        let pattern = member.models.iter().find(|pattern| pattern.matches(model));
        let label = pattern.map_or("other", Pattern::as_str).into();
        Ok(Choice {
            member,
            model: Some(model.into()),
            label,
        })
    }

    fn choose(&self, call: &Call) -> Result<Choice<'_>, DispatchError> {
        if let Some(model) = &call.model {
            return self.route(model);
        }
        let path = call.head.target.path();
        let claims = self
            .members
            .iter()
            .flat_map(|member| member.paths.iter().map(move |pattern| (pattern, member)));
        let member = most_specific(claims, path).ok_or_else(|| DispatchError::NoClaim {
            method: call.head.method.clone(),
            path: path.to_owned(),
        })?;
        Ok(Choice {
            member,
            model: None,
            label: "none".into(),
        })
    }

    async fn ask(&self, call: Call) -> Result<Reply, DispatchError> {
        let choice = self.choose(&call)?;
        let name = Arc::clone(&choice.member.name);
        let record = Arc::clone(&call.record);
        {
            let mut facts = record.facts();
            facts.upstream = Some(Arc::clone(&name));
            facts.route = call.model.is_some().then_some(choice.label);
            facts.attempts += 1;
        }
        let began = Instant::now();
        let asking = choice.member.upstream.call(call, choice.model.as_deref());
        let result = asking.await;
        record.facts().upstream_time = Some(began.elapsed());
        result.map_err(|source| DispatchError::Upstream { name, source })
    }

    /// Lists what the caller may use of what all upstreams have, each upstream's own names and the routes' exact ones.
    async fn list(&self, caller: &Caller) -> Vec<Model> {
        let listings = self.members.iter().map(|member| async move {
            let models = tokio::time::timeout(LISTING_TIMEOUT, member.upstream.models()).await;
            match models {
                Ok(Ok(models)) => models,
                Ok(Err(error)) => {
                    tracing::warn!(upstream.name = &*member.name, %error, "cannot list models");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(upstream.name = &*member.name, "cannot list models in time");
                    Vec::new()
                }
            }
        });
        let mut models: Vec<Model> = Vec::new();
        let mut add = |model: Model, owner: &Member| {
            let goes_there = self
                .route(&model.id)
                .is_ok_and(|choice| choice.member.name == owner.name);
            if goes_there
                && caller.may_use(&model.id)
                && models.iter().all(|known| known.id != model.id)
            {
                models.push(Model {
                    owned_by: owner.name.to_string(),
                    ..model
                });
            }
        };
        for (member, listing) in self.members.iter().zip(join_all(listings).await) {
            for model in listing {
                add(model, member);
            }
        }
        for route in self.routes.iter().filter(|route| route.model.is_exact()) {
            let member = &self.members[route.member];
            add(Model::new(route.model.as_str(), &*member.name), member);
        }
        models
    }

    /// Describes one model: by the upstream's own words where it has them.
    async fn describe(
        &self,
        name: &str,
        caller: &Caller,
        record: &Record,
    ) -> Result<Model, DispatchError> {
        let not_found = || DispatchError::NoRoute {
            model: name.to_owned(),
        };
        if !caller.may_use(name) {
            return Err(not_found());
        }
        let choice = self.route(name)?;
        let owner = Arc::clone(&choice.member.name);
        let served = choice.model.clone().unwrap_or_else(|| name.into());
        let began = Instant::now();
        let known = choice.member.upstream.model(&served).await;
        {
            let mut facts = record.facts();
            facts.upstream = Some(Arc::clone(&owner));
            facts.route = Some(choice.label);
            facts.attempts += 1;
            facts.upstream_time = Some(began.elapsed());
        }
        // A route of this very name is a promise of the operator's, whatever the upstream says of it.
        let promised = || Model::new(name, &*owner);
        let is_promised = self.routes.iter().any(|route| route.model.as_str() == name);
        let known = match known {
            Ok(Some(known)) => known,
            Ok(None) | Err(_) if is_promised => promised(),
            Ok(None) => return Err(not_found()),
            Err(source) => {
                return Err(DispatchError::Upstream {
                    name: owner,
                    source,
                });
            }
        };
        Ok(Model {
            id: name.to_owned(),
            owned_by: owner.to_string(),
            ..known
        })
    }
}

fn json(value: &impl Serialize) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    // Strings, numbers and maps of them always serialize.
    Reply::full(
        StatusCode::OK,
        headers,
        serde_json::to_vec(value).unwrap_or_default().into(),
    )
}
