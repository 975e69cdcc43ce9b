//! Numbers of the reconciles, by kind.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::group::Gauges;

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    writes: IntCounterVec,
    reconciles: IntCounterVec,
    failures: IntCounterVec,
    seconds: HistogramVec,
    repairs: IntCounterVec,
    changes: IntCounterVec,
    pub(crate) groups: Gauges,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a legal name")
        };
        let seconds = HistogramOpts::new(
            "gantry_operator_reconcile_duration_seconds",
            "Time that a reconcile took",
        );
        let buckets = vec![0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let registry = Registry::new();
        let metrics = Metrics {
            groups: Gauges::new(&registry),
            registry,
            repairs: counter(
                "gantry_operator_drift_repairs_total",
                "Resources of which a broker had something else and was put right",
                &["kind"],
            ),
            changes: counter(
                "gantry_operator_admin_writes_total",
                "Requests to brokers and name servers that change something",
                &["request"],
            ),
            reconciles: counter("gantry_operator_reconciles_total", "Reconciles", &["kind"]),
            failures: counter(
                "gantry_operator_reconcile_failures_total",
                "Failed reconciles",
                &["kind"],
            ),
            writes: counter(
                "gantry_operator_api_writes_total",
                "Requests to the Kubernetes API that write, but for the leader's Lease",
                &["verb", "resource"],
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
            metrics.registry.register(Box::new(metrics.writes.clone())),
            metrics.registry.register(Box::new(metrics.repairs.clone())),
            metrics.registry.register(Box::new(metrics.changes.clone())),
        ];
        assert!(
            registered.iter().all(Result::is_ok),
            "invariant: names differ"
        );
        metrics
    }

    /// Counts a write by its verb and the resource in its path.
    pub(crate) fn wrote(&self, verb: &http::Method, path: &str) {
        self.writes
            .with_label_values(&[verb.as_str(), resource(path)])
            .inc();
    }

    /// Counts a change at a broker or name server by the name of its request.
    pub(crate) fn changed(&self, request: &str) {
        self.changes.with_label_values(&[request]).inc();
    }

    pub(crate) fn repaired(&self, kind: &str) {
        self.repairs.with_label_values(&[kind]).inc();
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

/// The resource of a path of the Kubernetes API: what stands behind the namespace. The operator
/// writes to no others.
fn resource(path: &str) -> &str {
    let mut words = path.split('/').skip_while(|word| *word != "namespaces");
    words.nth(2).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use crds::ConsumerGroup;
    use crds::group::Progress;
    use prometheus::proto::LabelPair;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_guide_lists_every_series() {
        let metrics = Metrics::new();
        metrics.wrote(&http::Method::POST, "/api/v1/namespaces/a/services/b");
        metrics.changed("UPDATE_AND_CREATE_TOPIC");
        metrics.repaired("Topic");
        metrics.reconciled("Topic", Duration::from_secs(1), false);
        let group = ConsumerGroup::new("g", serde_json::from_str("{}").unwrap());
        metrics.groups.set(&group, "G", &Progress::default());
        let families = metrics.registry.gather();
        let shown: BTreeSet<String> = families
            .iter()
            .map(|family| {
                let labels = family.get_metric()[0].get_label();
                let labels: Vec<&str> = labels.iter().map(LabelPair::name).collect();
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                format!("{} | {kind} | {}", family.name(), labels.join(", "))
            })
            .collect();
        let guide = include_str!("../../docs/guide/monitoring.md");
        let of_operator = guide
            .split("### ")
            .find(|part| part.starts_with("Operator"));
        let rows = of_operator.expect("a section").lines();
        let listed: BTreeSet<String> = rows
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
                let mut cells = rest.split(" | ");
                let (kind, labels) = (cells.next()?, cells.next()?);
                let mut labels: Vec<&str> = labels.split(", ").collect();
                labels.sort_unstable();
                Some(format!("{name} | {kind} | {}", labels.join(", ")))
            })
            .collect();
        assert_eq!(shown, listed);
    }

    #[test]
    fn resources_of_paths() {
        let table = [
            ("/api/v1/namespaces/a/services/b", "services"),
            (
                "/apis/gantry.dev/v1alpha1/namespaces/a/topics/b/status",
                "topics",
            ),
            ("/apis/events.k8s.io/v1/namespaces/a/events", "events"),
            ("/version", "other"),
        ];
        for (path, expected) in table {
            assert_eq!(resource(path), expected, "{path}");
        }
    }
}
