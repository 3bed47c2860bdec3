//! What budgets would say of a call that is not made.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Amount, Balance, Budgets, Holder, Spent};

/// What one budget would say of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// What has been used of it.
    pub balance: Balance,
    /// What would be reserved for the call, in the budget's own unit.
    pub wanted: u64,
    /// Why it has no room for the call.
    pub spent: Option<Spent>,
    /// The same by what this gateway alone has used, whatever others have.
    pub spent_alone: Option<Spent>,
}

impl Budgets {
    /// Returns what each budget that a call would count towards would say of it, in the order in which they are asked;
    /// keeps no room.
    pub fn preview(
        &self,
        key: &Arc<str>,
        team: Option<&Arc<str>>,
        amount: &Amount,
        now: Timestamp,
    ) -> Vec<Preview> {
        let all = self.accounts.load();
        let team = team.map(|team| Holder::Team(Arc::clone(team)));
        let holders = [Some(Holder::Key(Arc::clone(key))), team];
        let accounts = holders.iter().flatten();
        let accounts = accounts.filter_map(|holder| all.get(holder));
        let mut previews = Vec::new();
        for account in accounts {
            for counter in account.counters().iter_mut().filter(|c| c.is_seeded) {
                previews.push(Preview {
                    balance: counter.balance(&account.holder, now),
                    wanted: counter.budget.of(amount),
                    spent: counter.refuse(&account.holder, amount, now),
                    spent_alone: counter.refuse_alone(&account.holder, amount, now),
                });
            }
        }
        previews
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Nanos;
    use crate::store::budgets::{Budget, Limit, Period, Window};

    #[test]
    fn looking_keeps_no_room_and_sees_what_a_call_would() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let budget = |limit| Budget {
            limit,
            per: Period::Total,
            window: Window::Calendar,
            warn_at_thousandths: 800,
        };
        let ledger = rusqlite::Connection::open_in_memory().unwrap();
        ledger
            .execute_batch(include_str!("../ledger/schema.sql"))
            .unwrap();
        let budgets = Budgets::default();
        let of_key = vec![budget(Limit::Tokens(10))];
        let of_team = vec![budget(Limit::Money(Nanos::new(5)))];
        let all = vec![
            (Holder::Key("alice".into()), of_key),
            (Holder::Team("research".into()), of_team),
        ];
        budgets.replace(all, &ledger, now).unwrap();
        let (key, team): (Arc<str>, Arc<str>) = ("alice".into(), "research".into());
        let amount = Amount {
            tokens: 10,
            cost: Nanos::new(6),
        };
        for _ in 0..1000 {
            let seen = budgets.preview(&key, Some(&team), &amount, now);
            let seen: Vec<_> = seen
                .iter()
                .map(|seen| (seen.balance.reserved, seen.wanted, seen.spent.is_some()))
                .collect();
            assert_eq!(seen, [(0, 10, false), (0, 6, true)]);
        }
        let refused = budgets.reserve(&key, Some(&team), amount, now).unwrap_err();
        let seen = budgets.preview(&key, Some(&team), &amount, now);
        assert_eq!(seen[1].spent.as_ref(), Some(&*refused));
        assert!(budgets.reserve(&key, None, amount, now).is_ok());
    }
}
