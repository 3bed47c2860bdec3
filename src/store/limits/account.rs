//! The cells of one holder, behind one lock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::Who;
use super::cell::{Cell, Share};
use super::entry::Entry;

/// Whose limits they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A key's, by its name.
    Key(Arc<str>),
    /// A team's, by its name: all its keys together.
    Team(Arc<str>),
    /// A route's, by its pattern: all calls that it serves.
    Route(Arc<str>),
    /// Everybody's together.
    Gateway,
}

/// The cells of one holder.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) holder: Holder,
    cells: Mutex<Cells>,
}

#[derive(Debug, Default)]
pub(super) struct Cells {
    list: Vec<Cell>,
    /// The id of the next new one.
    next: u64,
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    keys: FxHashMap<Arc<str>, Arc<Account>>,
    teams: FxHashMap<Arc<str>, Arc<Account>>,
    routes: FxHashMap<Arc<str>, Arc<Account>>,
    gateway: Option<Arc<Account>>,
}

/// How many accounts a call can count towards: its key's, its team's, its route's and the gateway's.
pub(super) const MOST: usize = 4;

/// The accounts of a call, always in the same order. Locked in that order, no two calls ever wait for each other.
pub(super) type OfCall = [Option<Arc<Account>>; MOST];

// === impl Holder ===

impl Holder {
    /// Returns `key`, `team`, `route` or `gateway`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Team(_) => "team",
            Self::Route(_) => "route",
            Self::Gateway => "gateway",
        }
    }

    /// Returns its name; the gateway has none.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Key(name) | Self::Team(name) | Self::Route(name) => Some(name),
            Self::Gateway => None,
        }
    }
}

/// `key alice`, `the gateway`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.kind()),
            None => f.write_str("the gateway"),
        }
    }
}

// === impl Account ===

impl Account {
    pub(super) fn new(holder: Holder) -> Self {
        Self {
            holder,
            cells: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Cells> {
        // Nothing is done halfway that could panic.
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Cells ===

impl Cells {
    /// Puts cells of other entries in the place of these. What counts the same goes on.
    pub(super) fn replace(&mut self, holder: &Holder, entries: &[Entry], share: Share) {
        let cells = entries
            .iter()
            .flat_map(|entry| Cell::of(holder, entry, share));
        let mut cells: Vec<Cell> = cells.collect();
        for cell in &mut cells {
            match self.list.iter().find(|old| old.subject == cell.subject) {
                Some(old) => cell.succeed(old),
                None => {
                    cell.id = self.next;
                    self.next += 1;
                }
            }
        }
        self.list = cells;
    }

    /// Returns the cells that calls of a model count towards.
    pub(super) fn of(&mut self, model: Option<&str>) -> impl Iterator<Item = &mut Cell> {
        self.list.iter_mut().filter(move |cell| cell.counts(model))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Cell> {
        self.list.iter()
    }

    /// Returns the cell that had an id, if it is still there.
    pub(super) fn find(&mut self, id: u64) -> Option<&mut Cell> {
        self.list.iter_mut().find(|cell| cell.id == id)
    }
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn get(&self, holder: &Holder) -> Option<&Arc<Account>> {
        match holder {
            Holder::Key(name) => self.keys.get(name),
            Holder::Team(name) => self.teams.get(name),
            Holder::Route(name) => self.routes.get(name),
            Holder::Gateway => self.gateway.as_ref(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        let named = [&self.keys, &self.teams, &self.routes];
        let named = named.into_iter().flat_map(FxHashMap::values);
        named.chain(&self.gateway)
    }

    pub(super) fn insert(&mut self, account: Arc<Account>) {
        match account.holder.clone() {
            Holder::Key(name) => self.keys.insert(name, account),
            Holder::Team(name) => self.teams.insert(name, account),
            Holder::Route(name) => self.routes.insert(name, account),
            Holder::Gateway => self.gateway.replace(account),
        };
    }

    pub(super) fn of(&self, who: &Who<'_>) -> OfCall {
        [
            self.keys.get(who.key).cloned(),
            who.team.and_then(|team| self.teams.get(team)).cloned(),
            who.route.and_then(|route| self.routes.get(route)).cloned(),
            self.gateway.clone(),
        ]
    }
}
