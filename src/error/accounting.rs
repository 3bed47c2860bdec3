//! What it means when a call cannot be written down.

use std::time::Duration;

use super::{SERVER, explain};
use crate::call::Cause;
use crate::middleware::accounting::AccountingError;
use crate::middleware::explain::Explanation;
use crate::store::ledger::LedgerError;

/// How long a client stays away from a ledger that cannot be written: it is tried again once in a second.
const LEDGER_RETRY: Duration = Duration::from_secs(2);

pub(super) fn accounting(error: &AccountingError) -> Explanation {
    match error.0 {
        LedgerError::Crowded => explain(
            503,
            SERVER,
            "overloaded",
            Cause::GatewayOverloaded,
            "Too many requests are under way. Try again a little later.",
        )
        .retry_after(Duration::from_secs(1)),
        LedgerError::Unwritable | LedgerError::Closed => explain(
            503,
            SERVER,
            "ledger_unavailable",
            Cause::GatewayLedger,
            "The gateway cannot write down what is used, and serves nothing until it can.",
        )
        .retry_after(LEDGER_RETRY),
    }
}
