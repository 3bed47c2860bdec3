//! How metrics are declared: put on the registry, and into the list of all there are.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{Counter, Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::family::{Family, Forget, Kind};

/// What is known of a metric before anything is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// The upper bounds of a histogram's buckets.
    pub buckets: Vec<f64>,
    /// What it says.
    pub help: String,
}

/// Declares metrics.
pub(super) struct Declare {
    pub(super) registry: Registry,
    pub(super) all: Vec<Declared>,
    pub(super) families: Vec<Box<dyn Forget>>,
    pub(super) max: Arc<AtomicUsize>,
    pub(super) folded: Option<Family<IntCounter, 1>>,
}

type Result<T> = std::result::Result<T, prometheus::Error>;

impl Declare {
    pub(super) fn new(max: Arc<AtomicUsize>) -> Self {
        Self {
            registry: Registry::new(),
            all: Vec::new(),
            families: Vec::new(),
            max,
            folded: None,
        }
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Result<IntCounter> {
        self.single(IntCounter::new(name, help)?)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Result<IntGauge> {
        self.single(IntGauge::new(name, help)?)
    }

    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Result<Family<IntCounter, N>> {
        self.family((name, help), labels, Vec::new())
    }

    /// Counters of what is no whole number, such as seconds.
    pub(super) fn sums<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Result<Family<Counter, N>> {
        self.family((name, help), labels, Vec::new())
    }

    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Result<Family<IntGauge, N>> {
        self.family((name, help), labels, Vec::new())
    }

    /// Gauges of what is no whole number, such as ratios.
    pub(super) fn levels<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Result<Family<Gauge, N>> {
        self.family((name, help), labels, Vec::new())
    }

    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        buckets: &[f64],
    ) -> Result<Family<Histogram, N>> {
        self.family((name, help), labels, buckets.to_vec())
    }

    /// Takes in metrics that were made elsewhere.
    pub(super) fn collector(&mut self, collector: impl Collector + 'static) -> Result<()> {
        for desc in collector.desc() {
            self.all.push(Declared {
                name: desc.fq_name.clone(),
                kind: match desc.fq_name.ends_with("_total") {
                    true => "counter",
                    false => "gauge",
                },
                labels: Vec::new(),
                buckets: Vec::new(),
                help: desc.help.clone(),
            });
        }
        self.registry.register(Box::new(collector))
    }

    fn single<M: Collector + Clone + 'static>(&mut self, metric: M) -> Result<M> {
        self.collector(metric.clone())?;
        Ok(metric)
    }

    fn family<M: Kind, const N: usize>(
        &mut self,
        (name, help): (&'static str, &'static str),
        labels: [&'static str; N],
        buckets: Vec<f64>,
    ) -> Result<Family<M, N>> {
        self.all.push(Declared {
            name: name.to_owned(),
            kind: match M::TYPE {
                MetricType::COUNTER => "counter",
                MetricType::HISTOGRAM => "histogram",
                _ => "gauge",
            },
            labels: labels.to_vec(),
            buckets: buckets.clone(),
            help: help.to_owned(),
        });
        let (max, folded) = (Arc::clone(&self.max), self.folded.clone());
        let family = Family::new((name, help), labels, buckets, max, folded)?;
        self.registry.register(Box::new(family.clone()))?;
        self.families.push(Box::new(family.clone()));
        Ok(family)
    }
}
