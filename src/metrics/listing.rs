//! The list of all metrics, as a page for people.

use std::fmt::Write as _;

use super::{Declared, Metrics};
use crate::call::Cause;

impl Metrics {
    /// Returns a page that lists all metrics with their labels and what they say, in Markdown.
    pub fn page(&self) -> String {
        let mut page = String::from(HEAD);
        for declared in self.declared() {
            let Declared {
                name,
                kind,
                labels,
                help,
                ..
            } = declared;
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            // Writing to a text never fails.
            let _ = writeln!(
                page,
                "| `{name}` | {kind} | {} | {help} |",
                labels.join(" ")
            );
        }
        page.push_str(BUCKETS);
        for declared in self.declared().iter().filter(|d| !d.buckets.is_empty()) {
            let bounds: Vec<_> = declared.buckets.iter().map(f64::to_string).collect();
            let _ = writeln!(page, "| `{}` | {} |", declared.name, bounds.join(", "));
        }
        page.push_str(CAUSES);
        for cause in Cause::ALL {
            let _ = writeln!(page, "- `{cause}`");
        }
        page
    }
}

const HEAD: &str = "\
# Metrics

What `/metrics` on the admin listener tells. This page is written by `cargo test --lib the_page_lists_what_is_declared` with
`WEIR_WRITE_METRICS=1`, and tested against the registry.

- `model` is the configured pattern that a model matched, never the name that a client sent. What a label has nothing to say of
  is `none`; `cause` is empty where nothing went wrong. `status=\"499\"`: the client left before there was an answer.
- A metric has at most `[metrics] max_series` series. What finds no place is counted under `other`, and in
  `weir_series_folded_total`; gauges that find none are left out. Series of keys, teams, models and upstreams that are no longer
  there go an hour later, and make room.
- Counters of seconds and money are sums: divide their rates by those of the counter beside them.

| name | kind | labels | what it says |
| --- | --- | --- | --- |
";

const BUCKETS: &str = "
## Buckets

| name | upper bounds |
| --- | --- |
";

const CAUSES: &str = "
## Causes

The label `cause`, `cause` in the access log and `error` in the ledger. The first part says who is to blame; our own 429 is
`policy_limit` or `policy_budget`, an upstream's is `upstream_limited`.

";
