//! From what was found out to what is told.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::request::Parts as HeadParts;
use serde_json::Value;

use super::Findings;
use crate::call::Call;
use crate::keys;
use crate::middleware::admission::{Basis, Forecast};
use crate::middleware::explain::{Explain, Explanation};
use crate::money::Nanos;
use crate::openai::endpoint::Endpoint;
use crate::pattern::Pattern;
use crate::report::outlook::{
    Budget, Cache, Estimate, Key, Limit, Outlook, Request, Route, Target, Verdict,
};
use crate::secret::Secret;
use crate::store::budgets::{self, Limit as Size};
use crate::store::directory::{Found, KeyState, Source};
use crate::store::keys::budget::window_word;
use crate::store::limits;
use crate::upstream::member::Aside;
use crate::upstream::member::health::Standing;
use crate::upstream::routing::{Balance, Preview, Prospect, Turn};

pub(super) fn outlook(head: &HeadParts, asked: &Secret, findings: Findings) -> Outlook {
    let Findings {
        refused, faulty, ..
    } = &findings;
    // A head that cannot be taken is refused before anybody asks for its key, a body behind that.
    let first = match findings.target {
        None => faulty.as_ref(),
        Some(_) => refused.as_ref().or(faulty.as_ref()),
    };
    let faulty = faulty.as_ref().map(Explain::explain);
    let way = findings.way.as_ref();
    let admission = findings.admission.as_ref();
    Outlook {
        verdict: verdict(first.map(Explain::explain)),
        key: key(asked, &findings),
        request: request(head, &findings, faulty.clone()),
        route: way.map(|way| route(way, findings.call.as_ref())),
        estimate: admission.and_then(|admission| admission.forecast.as_ref().map(estimate)),
        limits: admission.map_or_else(Vec::new, |admission| {
            admission.limits.iter().map(limit).collect()
        }),
        budgets: admission.map_or_else(Vec::new, |admission| {
            admission.budgets.iter().map(budget).collect()
        }),
        cache: match &findings.cached {
            Some(cached) => Cache {
                decision: cached.decision.to_owned(),
                reason: cached.reason.clone(),
            },
            None if findings.has_cache => Cache {
                decision: "bypass".to_owned(),
                reason: match faulty {
                    Some(_) => "the request cannot be read",
                    None => "endpoint",
                }
                .to_owned(),
            },
            None => Cache {
                decision: "off".to_owned(),
                reason: "no [cache] is configured".to_owned(),
            },
        },
        targets: way.map_or_else(Vec::new, |way| way.places.iter().map(target).collect()),
    }
}

fn verdict(refused: Option<Explanation>) -> Verdict {
    let Some(refused) = refused else {
        return Verdict {
            outcome: "served".to_owned(),
            status: 200,
            kind: None,
            code: None,
            param: None,
            message: None,
            retry_after_ms: None,
        };
    };
    let name = HeaderName::from_static("retry-after-ms");
    let mut headers = refused.headers.iter();
    let wait = headers.find(|(header, _)| *header == name);
    let wait = wait.and_then(|(_, value)| value.to_str().ok()?.parse().ok());
    Verdict {
        outcome: "refused".to_owned(),
        status: refused.status.as_u16(),
        kind: Some(refused.kind.to_owned()),
        code: Some(refused.code.to_owned()),
        param: refused.param.map(str::to_owned),
        message: Some(refused.message),
        retry_after_ms: wait,
    }
}

fn key(asked: &Secret, findings: &Findings) -> Key {
    let Some(Found {
        view, is_previous, ..
    }) = &findings.found
    else {
        return Key {
            reason: Some("there is no key of this name, this id or this secret".to_owned()),
            // What was asked for may be a secret: no more of it is told than logs may show.
            id: keys::public_prefix(asked.expose()).map(str::to_owned),
            ..Key::default()
        };
    };
    let (state, reason) = match view.state {
        KeyState::Active => ("active", None),
        KeyState::Expired => ("expired", Some("its time is over".to_owned())),
        KeyState::Revoked => {
            let when = view.revoked.as_deref().unwrap_or_default();
            ("revoked", Some(format!("it was revoked at {when}")))
        }
        KeyState::Shadowed => {
            let reason = "the configuration has another key of its name, or the same key";
            ("shadowed", Some(reason.to_owned()))
        }
        KeyState::TeamMissing => ("team_missing", Some("its team is not there".to_owned())),
        KeyState::Uncounted => (
            "uncounted",
            Some("what it has used before cannot be read from the ledger yet".to_owned()),
        ),
    };
    let text = |field: &str| view.terms.get(field).and_then(Value::as_str);
    let previous = view.previous.as_ref().filter(|_| *is_previous);
    let reason = reason.or_else(|| match (is_previous, previous) {
        (false, _) => None,
        (true, Some(old)) => Some(format!(
            "its secret before this one, valid until {}",
            old.expires
        )),
        (true, None) => Some("its secret before this one, which is not valid any more".to_owned()),
    });
    let expires = text("expires").map(str::to_owned);
    Key {
        found: true,
        opens: view.state == KeyState::Active && *is_previous == previous.is_some(),
        reason,
        name: Some(view.name.clone()),
        id: previous
            .map(|old| old.id.clone())
            .or_else(|| view.id.clone()),
        team: text("team").map(str::to_owned),
        source: Some(match view.source {
            Source::Config => "config".to_owned(),
            Source::Admin => "admin".to_owned(),
        }),
        state: Some(state.to_owned()),
        expires: previous.map(|old| old.expires.clone()).or(expires),
        may_use_path: findings.may_use_path,
        may_use_model: findings.may_use_model,
    }
}

fn request(head: &HeadParts, findings: &Findings, faulty: Option<Explanation>) -> Request {
    let endpoint = findings.target.as_ref().map(|target| &target.endpoint);
    let is_own = |endpoint: &Endpoint| endpoint.is_listing() || *endpoint == Endpoint::OwnUsage;
    let answered_by = endpoint.map(|endpoint| match is_own(endpoint) {
        true => "gateway",
        false => "upstream",
    });
    let call = findings.call.as_ref();
    Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        endpoint: endpoint.map(|endpoint| endpoint.label().to_owned()),
        answered_by: answered_by.map(str::to_owned),
        model: call.and_then(|call| Some(call.model.as_deref()?.to_owned())),
        stream: call.is_some_and(|call| call.stream),
        well_formed: faulty.is_none(),
        error: faulty.map(|faulty| faulty.message),
    }
}

fn route(way: &Preview, call: Option<&Call>) -> Route {
    let has_model = call.is_some_and(|call| call.model.is_some());
    Route {
        pattern: has_model.then(|| way.label.to_string()),
        balance: match way.balance {
            Balance::P2c => "p2c".to_owned(),
            Balance::Weighted => "weighted".to_owned(),
            Balance::Order => "order".to_owned(),
        },
    }
}

fn estimate(forecast: &Forecast) -> Estimate {
    let reserved = &forecast.estimate.reserved;
    Estimate {
        prompt_tokens: reserved.usage.prompt(),
        prompt_from: "estimated".to_owned(),
        completion_tokens: reserved.usage.completion(),
        completion_from: match forecast.basis {
            Basis::NoAnswer => "none".to_owned(),
            Basis::MaxTokens => "max_tokens".to_owned(),
            Basis::Learnt => "learnt".to_owned(),
            Basis::Guess => "guess".to_owned(),
        },
        choices: forecast.choices,
        cost: reserved.cost.map(|cost| cost.to_string()),
    }
}

fn limit(preview: &limits::Preview) -> Limit {
    let limits::Preview {
        room,
        wanted,
        refusal,
    } = preview;
    let wait = refusal.as_ref().and_then(|refusal| refusal.retry_after);
    Limit {
        of: room.holder.kind().to_owned(),
        name: room.holder.name().map(|name| name.to_string()),
        dimension: room.dimension.as_str().to_owned(),
        models: patterns(&room.models),
        shadow: room.shadow,
        limit: room.size.get(),
        burst: room.burst.get(),
        remaining: room.remaining,
        reset_ms: millis(room.reset),
        wanted: *wanted,
        refuses: refusal.is_some(),
        retry_after_ms: wait.map(millis),
    }
}

fn patterns(models: &Arc<[Pattern]>) -> Vec<String> {
    let models = models.iter().map(|model| model.as_str().to_owned());
    models.collect()
}

fn budget(preview: &budgets::Preview) -> Budget {
    let budgets::Preview {
        balance,
        wanted,
        spent,
        spent_alone: _,
    } = preview;
    let in_unit = |amount: u64| match balance.budget.limit {
        Size::Money(_) => Value::from(Nanos::new(amount).to_string()),
        Size::Tokens(_) => Value::from(amount),
    };
    let (unit, limit) = match balance.budget.limit {
        Size::Money(amount) => ("usd", amount.get()),
        Size::Tokens(tokens) => ("tokens", tokens),
    };
    Budget {
        of: balance.holder.kind().to_owned(),
        name: balance.holder.name().to_string(),
        unit: unit.to_owned(),
        per: balance.budget.per.as_str().to_owned(),
        window: window_word(balance.budget.window).to_owned(),
        limit: in_unit(limit),
        used: in_unit(balance.used),
        reserved: in_unit(balance.reserved),
        wanted: in_unit(*wanted),
        refuses: spent.is_some(),
        renewed: balance.renewed.map(|time| time.to_string()),
    }
}

fn target(place: &Prospect) -> Target {
    let left = match place.standing {
        Standing::Ejected(left) => Some(millis(left)),
        Standing::Well | Standing::Due => None,
    };
    let state = match place.standing {
        Standing::Ejected(_) => "ejected",
        Standing::Due => "due",
        Standing::Well if !place.is_loaded => "loading",
        Standing::Well => "healthy",
    };
    let aside = place.aside.map(|aside| match aside {
        Aside::Refused => "refused",
        Aside::Limited => "limited",
    });
    Target {
        upstream: place.upstream.to_string(),
        endpoint: place.endpoint.to_string(),
        model: place.model.as_ref().map(|model| model.to_string()),
        priority: place.priority,
        weight: place.weight,
        state: state.to_owned(),
        ejected_for_ms: left,
        credentials_aside: aside.map(str::to_owned),
        turn: match place.turn {
            Turn::InOrder => "in_order".to_owned(),
            Turn::LastResort => "last_resort".to_owned(),
            Turn::LeftOut => "never".to_owned(),
        },
        first_percent: (100.0 * place.chance).round() as u32,
    }
}

/// Upwards: whoever comes back then does not come too early.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::GatewayError;
    use crate::upstream::DispatchError;

    #[test]
    fn of_a_secret_that_nobody_has_no_more_is_told_than_logs_show() {
        let key = |asked: &str| key(&Secret::new(asked), &Findings::default());
        let ours = format!("wr-abcdefgh-{}", "s".repeat(43));
        let told = key(&ours);
        assert_eq!(told.id.as_deref(), Some("wr-abcdefgh"));
        assert!(!told.found && !told.opens);
        for asked in ["a-secret-of-theirs", ours.as_str()] {
            let told = serde_json::to_string(&key(asked)).unwrap();
            assert!(!told.contains(asked), "{told}");
        }
    }

    #[test]
    fn the_verdict_is_what_the_client_would_hear() {
        let error = GatewayError::from(DispatchError::NothingWell {
            retry_after: Duration::from_millis(1500),
        });
        let told = verdict(Some(error.explain()));
        assert_eq!(
            (told.status, told.code.as_deref()),
            (503, Some("overloaded"))
        );
        assert_eq!(told.retry_after_ms, Some(1500));
        let served = verdict(None);
        assert_eq!((served.outcome.as_str(), served.status), ("served", 200));
    }
}
