//! Sums of money that hold, however large they are.

use rusqlite::Row;

use crate::money::Nanos;

/// Two columns: the costs of all rows, as [`sum_of_costs`] reads them. SQLite's `sum` fails where a number grows too
/// large, so whole dollars and what is beside them are added up apart.
pub const SUM_OF_COSTS: &str =
    "coalesce(sum(cost / 1000000000), 0), coalesce(sum(cost % 1000000000), 0)";

/// Reads the columns of [`SUM_OF_COSTS`], the first of which is `index`.
///
/// # Errors
/// SQLite's own.
pub fn sum_of_costs(row: &Row<'_>, index: usize) -> Result<Nanos, rusqlite::Error> {
    let (dollars, nanos): (i64, i64) = (row.get(index)?, row.get(index + 1)?);
    let dollars = Nanos::dollars(dollars.max(0).cast_unsigned());
    Ok(dollars.saturating_add(Nanos::from_i64(nanos)))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn sums_saturate_and_nothing_is_lost_before() {
        let connection = Connection::open_in_memory().unwrap();
        let sum = |costs: &str| {
            let sql = format!(
                "SELECT {SUM_OF_COSTS} FROM (SELECT column1 AS cost FROM (VALUES {costs}))"
            );
            connection
                .query_row(&sql, [], |row| sum_of_costs(row, 0))
                .unwrap()
        };
        assert_eq!(sum("(NULL)"), Nanos::ZERO);
        assert_eq!(
            sum("(999999999), (1), (2000000003), (NULL)"),
            Nanos::new(3_000_000_003)
        );
        let most = i64::MAX;
        assert_eq!(sum(&format!("({most}), ({most}), ({most})")), Nanos::MAX);
    }
}
