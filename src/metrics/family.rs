//! A metric with labels: one series for each set of their values, and no more series than there may be.
//!
//! `prometheus` has such vectors, too. They grow without a bound, tell series apart by a digest of the values put together
//! (a team `a` with a key `bc` would share one with a team `ab` and a key `c`), and keep whoever needs a new series waiting
//! while they are read. Here a reader holds the lock for as long as it takes to count references.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use prometheus::core::{Collector, Desc, Metric};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

/// What is counted for those that have found no place.
pub(super) const OTHER: &str = "other";

/// Labels whose values can be many, since people make new ones while the gateway runs.
const OPEN: &[&str] = &["team", "key", "model", "models", "upstream", "name"];

/// A kind of metric that a family can be of.
pub(super) trait Kind: Metric + 'static {
    /// What Prometheus calls it.
    const TYPE: MetricType;

    /// Makes one with these labels.
    fn make(
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: HashMap<String, String>,
    ) -> Result<Self, prometheus::Error>;
}

macro_rules! kinds {
    ($($metric:ty: $kind:ident),+) => {
        $(impl Kind for $metric {
            const TYPE: MetricType = MetricType::$kind;

            fn make(
                name: &str,
                help: &str,
                _: &[f64],
                labels: HashMap<String, String>,
            ) -> Result<Self, prometheus::Error> {
                Self::with_opts(Opts::new(name, help).const_labels(labels))
            }
        })+
    };
}

kinds!(IntCounter: COUNTER, Counter: COUNTER, IntGauge: GAUGE, Gauge: GAUGE);

impl Kind for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn make(
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: HashMap<String, String>,
    ) -> Result<Self, prometheus::Error> {
        let opts = HistogramOpts::new(name, help);
        Self::with_opts(opts.buckets(buckets.to_vec()).const_labels(labels))
    }
}

/// A metric with `N` labels. Clones are the same one.
pub(super) struct Family<M, const N: usize> {
    inner: Arc<Inner<M, N>>,
}

struct Inner<M, const N: usize> {
    desc: Desc,
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    buckets: Vec<f64>,
    /// Series that there may be.
    max: Arc<AtomicUsize>,
    /// Counts what has found no place.
    folded: Option<Family<IntCounter, 1>>,
    /// Stands in where no series can be made: for label names that are none, which a declaration would not have survived.
    spare: M,
    /// Found by the values that they hold: whoever looks owns none, and no series has them twice.
    series: RwLock<HashTable<Arc<Series<M, N>>>>,
    /// Quick, and with a seed of its own. What names chosen to collide could cost is bounded as the series are.
    hasher: DefaultHashBuilder,
}

struct Series<M, const N: usize> {
    values: [Box<str>; N],
    metric: M,
}

impl<M, const N: usize> Series<M, N> {
    fn values(&self) -> [&str; N] {
        self.values.each_ref().map(|value| &**value)
    }
}

impl<M, const N: usize> Clone for Family<M, N> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<M: Kind, const N: usize> Family<M, N> {
    pub(super) fn new(
        (name, help): (&'static str, &'static str),
        labels: [&'static str; N],
        buckets: Vec<f64>,
        max: Arc<AtomicUsize>,
        folded: Option<Family<IntCounter, 1>>,
    ) -> Result<Self, prometheus::Error> {
        let names = labels.map(str::to_owned).to_vec();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())?;
        let spare = M::make(name, help, &buckets, HashMap::new())?;
        Ok(Self {
            inner: Arc::new(Inner {
                desc,
                name,
                help,
                labels,
                buckets,
                max,
                folded,
                spare,
                series: RwLock::default(),
                hasher: DefaultHashBuilder::default(),
            }),
        })
    }

    /// Returns the series of these values. Where there are as many as there may be, that of those which have found no place.
    pub(super) fn with(&self, values: [&str; N]) -> M {
        self.find_or_make(values).unwrap_or_else(|| {
            self.note_folded();
            let mut folded = values;
            for (value, label) in folded.iter_mut().zip(self.inner.labels) {
                if OPEN.contains(&label) {
                    *value = OTHER;
                }
            }
            let (found, _) = self.look_up(folded);
            found
                .or_else(|| self.make(folded, usize::MAX))
                .unwrap_or_else(|| self.inner.spare.clone())
        })
    }

    /// Returns the series of these values, where there is one or room for it: what cannot be added up is not folded.
    pub(super) fn find_or_make(&self, values: [&str; N]) -> Option<M> {
        let max = self.inner.max.load(Ordering::Relaxed);
        match self.look_up(values) {
            (Some(found), _) => Some(found),
            (None, count) if count >= max => None,
            (None, _) => self.make(values, max),
        }
    }

    /// Returns the series of these values, if there is one, and how many there are.
    fn look_up(&self, values: [&str; N]) -> (Option<M>, usize) {
        let digest = self.inner.hasher.hash_one(values);
        let series = self.inner.series.read();
        let series = series.unwrap_or_else(PoisonError::into_inner);
        let found = series.find(digest, |series| series.values() == values);
        (found.map(|series| series.metric.clone()), series.len())
    }

    /// Counts what has found no place.
    pub(super) fn note_folded(&self) {
        if let Some(folded) = &self.inner.folded {
            folded.with([self.inner.name]).inc();
        }
    }

    fn make(&self, values: [&str; N], max: usize) -> Option<M> {
        let inner = &*self.inner;
        let labels = inner.labels.iter().zip(values);
        let labels = labels.map(|(label, value)| ((*label).to_owned(), value.to_owned()));
        // Made before the lock is taken: many wait for it.
        let metric = M::make(inner.name, inner.help, &inner.buckets, labels.collect()).ok()?;
        let hash = |series: &Arc<Series<M, N>>| inner.hasher.hash_one(series.values());
        let digest = inner.hasher.hash_one(values);
        let mut series = inner.series.write().unwrap_or_else(PoisonError::into_inner);
        let count = series.len();
        match series.entry(digest, |series| series.values() == values, hash) {
            Entry::Occupied(made) => Some(made.get().metric.clone()),
            Entry::Vacant(_) if count >= max => None,
            Entry::Vacant(place) => {
                let values = values.map(Box::from);
                let made = place.insert(Arc::new(Series { values, metric }));
                Some(made.get().metric.clone())
            }
        }
    }

    /// Returns all series there are. Whoever needs a new one waits no longer than it takes to count references.
    fn snapshot(&self) -> Vec<Arc<Series<M, N>>> {
        let series = self.inner.series.read();
        let series = series.unwrap_or_else(PoisonError::into_inner);
        series.iter().map(Arc::clone).collect()
    }

    /// Removes the series of which that is true, by the values of their labels.
    fn remove(&self, is_gone: impl Fn(&[&'static str; N], &[Box<str>; N]) -> bool) {
        let inner = &*self.inner;
        let mut gone = self.snapshot();
        gone.retain(|series| is_gone(&inner.labels, &series.values));
        if !gone.is_empty() {
            let mut all = inner.series.write().unwrap_or_else(PoisonError::into_inner);
            for series in gone {
                let digest = inner.hasher.hash_one(series.values());
                if let Ok(found) = all.find_entry(digest, |found| Arc::ptr_eq(found, &series)) {
                    found.remove();
                }
            }
        }
    }

    /// Keeps the series of these values alone.
    pub(super) fn keep(&self, is_kept: impl Fn([&str; N]) -> bool) {
        self.remove(|_, values| !is_kept(values.each_ref().map(|value| &**value)));
    }
}

/// A family whose series can be forgotten, whatever it is of.
pub(super) trait Forget: Send + Sync {
    /// Shows each value that an open label has.
    fn each_open(&self, see: &mut dyn FnMut(&'static str, &str));

    /// Removes the series that have a value which is gone.
    fn forget(&self, is_gone: &dyn Fn(&'static str, &str) -> bool);
}

impl<M: Kind, const N: usize> Forget for Family<M, N> {
    fn each_open(&self, see: &mut dyn FnMut(&'static str, &str)) {
        let all = self.snapshot();
        for (index, label) in self.inner.labels.iter().enumerate() {
            if OPEN.contains(label) {
                for series in &all {
                    see(label, &series.values[index]);
                }
            }
        }
    }

    fn forget(&self, is_gone: &dyn Fn(&'static str, &str) -> bool) {
        self.remove(|labels, values| {
            let mut labels = labels.iter().zip(values);
            labels.any(|(label, value)| OPEN.contains(label) && is_gone(label, value))
        });
    }
}

impl<M: Kind, const N: usize> Collector for Family<M, N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.inner.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let all = self.snapshot();
        let mut family = MetricFamily::default();
        family.set_name(self.inner.name.to_owned());
        family.set_help(self.inner.help.to_owned());
        family.set_field_type(M::TYPE);
        let metrics = all.iter().map(|series| series.metric.metric());
        family.set_metric(metrics.collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(max: usize) -> (Family<IntCounter, 3>, Family<IntCounter, 1>) {
        let max = Arc::new(AtomicUsize::new(max));
        let folded = Family::new(
            ("folded_total", "f"),
            ["metric"],
            vec![],
            Arc::clone(&max),
            None,
        );
        let folded = folded.unwrap();
        let labels = ["team", "key", "result"];
        let family = Family::new(("m_total", "h"), labels, vec![], max, Some(folded.clone()));
        (family.unwrap(), folded)
    }

    fn count(family: &Family<IntCounter, 3>) -> usize {
        family.collect()[0].get_metric().len()
    }

    #[test]
    fn values_are_told_apart_where_they_end() {
        let (family, _) = family(10);
        family.with(["a", "bc", "hit"]).inc();
        family.with(["ab", "c", "hit"]).inc_by(5);
        assert_eq!(family.with(["a", "bc", "hit"]).get(), 1);
        assert_eq!(count(&family), 2);
    }

    #[test]
    fn what_finds_no_place_is_counted_together_and_keeps_its_closed_labels() {
        let (family, folded) = family(10);
        for number in 0..1000 {
            let result = if number % 2 == 0 { "hit" } else { "miss" };
            family.with(["t", &number.to_string(), result]).inc();
        }
        assert_eq!(count(&family), 12);
        let others = ["hit", "miss"].map(|result| family.with([OTHER, OTHER, result]).get());
        assert_eq!(others, [495, 495]);
        assert_eq!(folded.with(["m_total"]).get(), 990);
        // Those that have a place keep it.
        family.with(["t", "3", "miss"]).inc();
        assert_eq!(family.with(["t", "3", "miss"]).get(), 2);
    }

    #[test]
    fn what_is_gone_makes_room() {
        let (family, _) = family(2);
        for key in ["stays", "goes", "late"] {
            family.with(["t", key, "hit"]).inc();
        }
        family.forget(&|label, value| label == "key" && value == "goes");
        family.with(["t", "late", "hit"]).inc();
        let values = |key| {
            family
                .look_up(["t", key, "hit"])
                .0
                .map(|metric| metric.get())
        };
        assert_eq!(["stays", "goes"].map(values), [Some(1), None]);
        family.forget(&|label, _| label == "result");
        assert!(count(&family) > 0, "a closed label is never gone");
    }

    #[test]
    fn what_is_made_anew_while_the_old_one_goes_stays() {
        let (family, _) = family(10);
        family.with(["t", "k", "hit"]).inc();
        let once = std::cell::Cell::new(true);
        family.keep(|_| {
            // Another one removes it, and somebody needs it again, in the middle of that.
            if once.take() {
                family.keep(|_| false);
                family.with(["t", "k", "hit"]).inc_by(7);
            }
            false
        });
        assert_eq!(family.with(["t", "k", "hit"]).get(), 7);
        assert_eq!(count(&family), 1);
    }

    #[test]
    fn many_at_once_make_no_more_than_there_may_be() {
        let (family, _) = family(50);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let family = family.clone();
                scope.spawn(move || {
                    for number in 0..500 {
                        family
                            .with(["t", &format!("{thread}-{number}"), "hit"])
                            .inc();
                    }
                });
            }
        });
        assert_eq!(count(&family), 51);
    }
}
