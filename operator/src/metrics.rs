//! Numbers of the reconciles, by kind.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    reconciles: IntCounterVec,
    failures: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let counter = |name: &str, help: &str| {
            IntCounterVec::new(Opts::new(name, help), &["kind"]).expect("a legal name")
        };
        let seconds = HistogramOpts::new(
            "gantry_operator_reconcile_duration_seconds",
            "Time that a reconcile took",
        );
        let buckets = vec![0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let metrics = Metrics {
            registry: Registry::new(),
            reconciles: counter("gantry_operator_reconciles_total", "Reconciles"),
            failures: counter(
                "gantry_operator_reconcile_failures_total",
                "Failed reconciles",
            ),
            seconds: HistogramVec::new(seconds.buckets(buckets), &["kind"]).expect("a legal name"),
        };
        let registered = [
            metrics
                .registry
                .register(Box::new(metrics.reconciles.clone())),
            metrics
                .registry
                .register(Box::new(metrics.failures.clone())),
            metrics.registry.register(Box::new(metrics.seconds.clone())),
        ];
        assert!(
            registered.iter().all(Result::is_ok),
            "invariant: names differ"
        );
        metrics
    }

    pub(crate) fn reconciled(&self, kind: &str, took: Duration, succeeded: bool) {
        self.reconciles.with_label_values(&[kind]).inc();
        self.seconds
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
        if !succeeded {
            self.failures.with_label_values(&[kind]).inc();
        }
    }
}
