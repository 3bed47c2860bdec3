//! Why requests fail, and who is to blame: one closed vocabulary for metrics, the access log and the ledger.

use std::fmt;

/// Who is to blame for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client: it made a mistake, was too slow, or left.
    Client,
    /// A policy of ours: it does not let the client have what it asks for.
    Policy,
    /// The upstream: it failed, or cannot be reached.
    Upstream,
    /// The gateway itself.
    Gateway,
}

/// Makes [`Cause`] of a table: each cause stands with whoever is to blame for it.
macro_rules! causes {
    ($($blame:ident { $($(#[$doc:meta])+ $name:ident = $word:literal,)+ })+) => {
        /// Why a request failed. The first part of the word names who is to blame: see [`Cause::blame`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $($($(#[$doc])+ $name,)+)+
        }

        impl Cause {
            /// All there are.
            pub const ALL: &[Self] = &[$($(Self::$name),+),+];

            /// Returns its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Self::$name => $word,)+)+
                }
            }

            /// Returns who is to blame.
            pub const fn blame(self) -> Blame {
                match self {
                    $($(Self::$name)|+ => Blame::$blame,)+
                }
            }
        }
    };
}

causes! {
    Client {
        /// No key was shown, or more than one.
        ClientNoKey = "client_no_key",
        /// Nobody knows the key.
        ClientWrongKey = "client_wrong_key",
        /// The key has expired.
        ClientExpiredKey = "client_expired_key",
        /// The bytes are no HTTP request, a header stands there twice that may not, or the body broke off.
        ClientMalformed = "client_malformed",
        /// The path does not take the method.
        ClientMethod = "client_method",
        /// There is no such path.
        ClientUnknownPath = "client_unknown_path",
        /// The body is not what the endpoint takes.
        ClientInvalidBody = "client_invalid_body",
        /// No route serves the model.
        ClientUnknownModel = "client_unknown_model",
        /// The URI, the head or the body is larger than it may be.
        ClientTooLarge = "client_too_large",
        /// The client sends or reads too slowly.
        ClientSlow = "client_slow",
        /// The client left first.
        ClientGone = "client_gone",
        /// The client's own deadline was over.
        ClientDeadline = "client_deadline",
        /// The client wanted what is kept and nothing else, and nothing is.
        ClientNotCached = "client_not_cached",
        /// The client used one `Idempotency-Key` for two requests.
        ClientKeyReused = "client_key_reused",
        /// The upstream found fault with the request: its own 400, 404, 413, 415, 422 and the like.
        ClientRejected = "client_rejected",
    }
    Policy {
        /// A limit of ours has no room: our own 429.
        PolicyLimit = "policy_limit",
        /// A budget is spent: our own 429, too.
        PolicyBudget = "policy_budget",
        /// The key may not use the model.
        PolicyModel = "policy_model",
        /// The key may not use the path.
        PolicyPath = "policy_path",
        /// A limit or a budget ran out in the middle of a stream.
        PolicyStopped = "policy_stopped",
    }
    Upstream {
        /// The upstream cannot be reached.
        UpstreamConnect = "upstream_connect",
        /// The upstream broke off its answer.
        UpstreamBroken = "upstream_broken",
        /// The upstream did not answer in time.
        UpstreamTimeout = "upstream_timeout",
        /// The upstream says that it failed: its 408, 409 or 5xx, or an error in its stream.
        UpstreamStatus = "upstream_status",
        /// The upstream's limit has no room: its own 429.
        UpstreamLimited = "upstream_limited",
        /// The upstream refuses our credential.
        UpstreamAuth = "upstream_auth",
        /// What the upstream sent is no answer.
        UpstreamInvalid = "upstream_invalid",
        /// The upstream's answer is larger than it may be.
        UpstreamTooLarge = "upstream_too_large",
        /// Every upstream of the model is left out because it has failed.
        UpstreamEjected = "upstream_ejected",
    }
    Gateway {
        /// A queue or the ledger has no place left.
        GatewayOverloaded = "gateway_overloaded",
        /// The local model is not loaded.
        GatewayNotReady = "gateway_not_ready",
        /// The local model failed.
        GatewayEngine = "gateway_engine",
        /// The ledger cannot be written or read.
        GatewayLedger = "gateway_ledger",
        /// Shared limits are away, and nobody is let in without them.
        GatewayLimits = "gateway_limits",
        /// The gateway stopped.
        GatewayDrained = "gateway_drained",
        /// The process died. Only the ledger says so.
        GatewayInterrupted = "gateway_interrupted",
        /// A bug.
        GatewayPanic = "gateway_panic",
    }
}

// === impl Blame ===

impl Blame {
    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Policy => "policy",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Returns whether it is a mistake of the client's, or a policy of ours.
    pub fn is_refusal(self) -> bool {
        matches!(self.blame(), Blame::Client | Blame::Policy)
    }

    /// Returns who is to blame for an upstream's answer of this status that goes to the client; `None`: nobody.
    pub fn of_answer(status: u16) -> Option<Self> {
        match status {
            ..400 => None,
            429 => Some(Self::UpstreamLimited),
            // These are tried again, like those of servers: whoever sends the same once more may succeed.
            408 | 409 | 500.. => Some(Self::UpstreamStatus),
            _ => Some(Self::ClientRejected),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_word_begins_with_who_is_to_blame_and_is_there_once() {
        let mut seen = HashSet::new();
        for cause in Cause::ALL {
            let word = cause.as_str();
            let (who, what) = word.split_once('_').unwrap();
            assert_eq!(who, cause.blame().as_str(), "{word}");
            assert!(!what.is_empty(), "{word}");
            assert!(seen.insert(word), "{word}");
            assert!(
                word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{word}"
            );
        }
    }

    #[test]
    fn a_refusal_is_the_clients_fault_or_a_policy_of_ours() {
        assert!(Cause::ClientGone.is_refusal());
        assert!(Cause::PolicyBudget.is_refusal());
        assert!(!Cause::UpstreamLimited.is_refusal());
        assert!(!Cause::GatewayOverloaded.is_refusal());
    }

    #[test]
    fn our_own_429_is_not_the_upstreams() {
        assert_eq!(Cause::of_answer(200), None);
        assert_eq!(Cause::of_answer(429), Some(Cause::UpstreamLimited));
        assert_ne!(Cause::PolicyLimit, Cause::UpstreamLimited);
        assert_eq!(Cause::of_answer(422), Some(Cause::ClientRejected));
        assert_eq!(Cause::of_answer(503), Some(Cause::UpstreamStatus));
    }
}
