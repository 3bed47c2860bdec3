//! What is said in a call, kept for its span where that is wanted.

use std::fmt;

/// What is said in a call. It prints nothing of it.
#[derive(Clone, Default)]
pub struct Content {
    /// What was asked.
    pub input: Vec<Message>,
    /// What was answered.
    pub output: Vec<Message>,
}

/// What one side said at one time.
#[derive(Clone)]
pub struct Message {
    /// Who said it: `system`, `user`, `assistant`, `tool`, or what else the client calls it.
    pub role: String,
    /// The text.
    pub text: String,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}
