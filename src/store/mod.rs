//! What must outlive a request, and the process: the ledger, budgets that are counted from it, and in the same file the
//! keys and teams made at run time. The directory puts those beside the configuration's, and the keyring is what opens.
//! Limits outlive a reload, but not the process: whatever they count is soon over. So do answers, for
//! calls that are alike and for clients that ask again.

pub mod budgets;
pub mod cache;
pub mod directory;
pub mod keyring;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod means;
pub mod redis;
pub mod retries;
