//! What must outlive a request, and the process: the ledger, budgets that are counted from it, and in the same file the
//! keys and teams made at run time.

pub mod budgets;
pub mod ledger;
