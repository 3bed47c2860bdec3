//! The models of all upstreams, as one listing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant as Clock;

use super::DispatchError;
use super::table::Table;
use crate::call::{Caller, Record, Reply, Try};
use crate::openai::endpoint::Endpoint;
use crate::openai::models::{Engine, List, Model};
use crate::upstream::UpstreamError;
use crate::upstream::member::Member;

/// How long a listing waits for one upstream's models. One that is away must not hide the others'.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a call for the models.
pub(super) async fn answer(
    table: &Table,
    endpoint: &Endpoint,
    caller: &Caller,
    record: &Record,
) -> Result<Reply, DispatchError> {
    match endpoint {
        Endpoint::Engines => {
            let models = table.list(caller).await;
            Ok(json(&List::new(models.iter().map(Engine::from).collect())))
        }
        Endpoint::Model(name) => Ok(json(&table.describe(name, caller, record).await?)),
        Endpoint::Engine(name) => Ok(json(&Engine::from(
            &table.describe(name, caller, record).await?,
        ))),
        _ => Ok(json(&List::new(table.list(caller).await))),
    }
}

impl Member {
    async fn list(&self) -> Result<Vec<Model>, UpstreamError> {
        let mut told = Ok(Vec::new());
        for endpoint in self.by_health() {
            let credential = self.credentials.shown(Clock::now());
            told = endpoint.service.models(credential).await;
            if told.is_ok() {
                break;
            }
        }
        told
    }

    async fn describe(&self, name: &str) -> Result<Option<Model>, UpstreamError> {
        let mut told = Ok(None);
        for endpoint in self.by_health() {
            let credential = self.credentials.shown(Clock::now());
            told = endpoint.service.model(name, credential).await;
            if told.is_ok() {
                break;
            }
        }
        told
    }
}

impl Table {
    /// Lists what the caller may use of what all upstreams have, each upstream's own names and the routes' exact ones.
    async fn list(&self, caller: &Caller) -> Vec<Model> {
        let listings = self.members().iter().map(|member| async move {
            match tokio::time::timeout(TIMEOUT, member.list()).await {
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
            let goes_there = self.route(&model.id).is_ok_and(|choice| {
                let mut targets = choice.route.targets.iter();
                targets.any(|target| target.member.name == owner.name)
            });
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
        for (member, listing) in self.members().iter().zip(join_all(listings).await) {
            for model in listing {
                add(model, member);
            }
        }
        for route in self.named() {
            if let Some(first) = route.targets.first() {
                let member = &first.member;
                add(Model::new(route.model.as_str(), &*member.name), member);
            }
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
        let target = choice.route.targets.first().ok_or_else(not_found)?;
        let owner = Arc::clone(&target.member.name);
        let served = target.model.clone().unwrap_or_else(|| name.into());
        let began = Instant::now();
        let known = target.member.describe(&served).await;
        note(
            record,
            target.member.as_ref(),
            Arc::clone(choice.label),
            began,
            known.is_ok(),
        );
        // A route of this very name is a promise of the operator's, whatever the upstream says of it.
        let promised = || Model::new(name, &*owner);
        let is_promised = self.named().any(|route| route.model.as_str() == name);
        let known = match known {
            Ok(Some(known)) => known,
            Ok(None) | Err(_) if is_promised => promised(),
            Ok(None) => return Err(not_found()),
            Err(source) => {
                return Err(DispatchError::Upstream {
                    name: owner,
                    source,
                    spent: false,
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

fn note(record: &Record, member: &Member, label: Arc<str>, began: Instant, known: bool) {
    let mut facts = record.facts();
    facts.upstream = Some(Arc::clone(&member.name));
    facts.route = Some(label);
    facts.upstream_time = Some(began.elapsed());
    facts.attempts.push(Try {
        upstream: Arc::clone(&member.name),
        endpoint: member
            .any_endpoint()
            .map_or_else(|| "none".into(), |endpoint| Arc::clone(&endpoint.label)),
        model: None,
        began: began.saturating_duration_since(record.received),
        time: Some(began.elapsed()),
        result: if known {
            Try::ANSWERED
        } else {
            "upstream_error"
        },
        status: None,
        sent: false,
        counted: None,
    });
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
