//! Gantry's `/metrics` says what the Java broker's says of the same traffic.
//!
//! The traffic is played on a site of each kind. Then every series of the one must be a series of
//! the other, by name, type and labels, and where the traffic alone makes the value, by value too,
//! but for what `e2e/metrics-not.toml` names with a reason. What only Gantry has begins with
//! `gantry_`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use toml_edit::{DocumentMut, Table};

use super::messages::{consume, produce};
use super::produce::look;
use super::{Against, Row};
use crate::http;
use crate::java::driver::{Client, Command};
use crate::lab::{Addresses, Lab, NameServer, Target};
use crate::process::Process;
use crate::raw::{self, Connection};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![(
        "metrics_agree_with_those_of_java",
        Against::Gantry,
        |lab, _| Box::pin(agree(lab)),
    )]
}

async fn agree(lab: &mut Lab) -> anyhow::Result<()> {
    let not = Not::read()?;
    let mut sites = Vec::new();
    for target in [Target::Java, Target::Gantry] {
        sites.push(play(lab, target).await?);
    }
    let [java, gantry] = sites.as_slice() else {
        anyhow::bail!("invariant: two sites");
    };
    // Offsets are committed and delayed messages delivered a little later on either side. Java
    // keeps a client whose heartbeat crossed its goodbye for 120 s, and looks every 10 s.
    until("the pages agree", Duration::from_secs(150), async || {
        let [java, gantry] = [
            Series::read(java.pages).await?,
            Series::read(gantry.pages).await?,
        ];
        let differences = differences(&java, &gantry, &not);
        ensure!(differences.is_empty(), "\n{}", differences.join("\n"));
        Ok(())
    })
    .await
}

/// What runs while the pages are read, and where they are.
#[derive(Debug)]
struct Played {
    pages: SocketAddr,
    _running: (NameServer, Process),
}

/// In one queue: more than a client takes in advance, and pulls of it are full.
const WAITING: usize = 1_200;

async fn play(lab: &mut Lab, target: Target) -> anyhow::Result<Played> {
    let name_server = lab.name_server(target).await?;
    let mut plan = lab.plan("metrics", &[name_server.address])?;
    // Gantry stores the property CRC always, Java when it is told to.
    plan.extra_properties = format!(
        "enabledAppendPropCRC=true\nmetricsExporterType=PROM\n\
         metricsPromExporterHost=127.0.0.1\nmetricsPromExporterPort={}\n",
        plan.http().port()
    );
    let broker = lab.broker(target, &plan).await?;
    let site = Addresses {
        name_server: name_server.address,
        name_server_http: name_server.http,
        broker: plan.remoting(),
        broker_http: plan.http(),
    };
    admin(&site).await?;
    sends(lab, &site).await?;
    retries(lab, &site, target).await?;
    waits(lab, &site, target).await?;
    Ok(Played {
        pages: site.broker_http,
        _running: (name_server, broker),
    })
}

/// A topic and a group are made, and a topic is refused.
async fn admin(site: &Addresses) -> anyhow::Result<()> {
    const UPDATE_TOPIC: i32 = 17;
    const UPDATE_GROUP: i32 = 200;
    let mut connection = Connection::open(site.broker).await?;
    for (topic, code) in [("made", 0), ("made?", 1)] {
        let fields = [
            ("topic", topic),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", "2"),
            ("writeQueueNums", "2"),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ];
        let request = raw::json_request(UPDATE_TOPIC, 1, &fields, b"");
        let answer = connection.call(&request).await?;
        ensure!((answer.code == 0) == (code == 0), "{topic}: {answer:?}");
    }
    let group = raw::json_request(UPDATE_GROUP, 2, &[], br#"{"groupName":"made"}"#);
    let answer = connection.call(&group).await?;
    ensure!(answer.code == 0, "{answer:?}");
    Ok(())
}

async fn sends(lab: &mut Lab, site: &Addresses) -> anyhow::Result<()> {
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    let plain = produce(site, "plain", &sent)
        .with("count", 200)
        .with("bodyBytes", 2_000);
    driver.ask(plain.clone()).await?;
    // One queue, since a producer begins with any of several and the pull below reads the first.
    let batch = produce(site, "batch", &sent)
        .with("count", 10)
        .with("queues", 1);
    driver.ask(batch.renamed("send-batch")).await?;
    let later = produce(site, "later", &sent)
        .with("count", 5)
        .with("level", 1);
    driver.ask(later.renamed("send-delayed")).await?;
    let tagged = produce(site, "tagged", &sent)
        .with("count", 100)
        .with("tags", "A,B");
    driver.ask(tagged).await?;
    for (topic, tags, distinct) in [("plain", "*", 200), ("tagged", "A", 50)] {
        let start = consume(site, topic, "all", &pushed).with("tags", tags);
        driver.ask(start).await?;
        let wait = Command::new("consume-wait").with("id", "all");
        driver.ask(wait.with("distinct", distinct)).await?;
        let stop = Command::new("consume-stop").with("id", "all");
        driver.ask(stop).await?;
    }
    let fields = [
        ("a", "g"),
        ("b", "ordered"),
        ("c", "TBW102"),
        ("d", "1"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        (
            "i",
            "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}u\u{2}__SHARDINGKEY\u{1}s\u{2}",
        ),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    let request = raw::json_request(310, 1, &fields, b"in order");
    let answer = Connection::open(site.broker).await?.call(&request).await?;
    ensure!(answer.code == 0, "{answer:?}");
    let pull = Command::new("pull")
        .with("namesrv", site.name_server)
        .with("topic", "batch")
        .with("broker", "broker-metrics");
    for offset in [0, 100] {
        driver.ask(pull.clone().with("offset", offset)).await?;
    }
    Ok(())
}

/// A message that always fails, until it is a dead letter.
async fn retries(lab: &mut Lab, site: &Addresses, target: Target) -> anyhow::Result<()> {
    let sent = lab.record_file("sent");
    let driver = lab.driver(Client::V5).await?;
    let one = produce(site, "given-up", &sent).with("count", 1);
    driver.ask(one).await?;
    let of = |verb| Command::new(verb).with("id", format!("given-up-{target:?}"));
    let start = of("retry-start")
        .with("namesrv", site.name_server)
        .with("topic", "given-up")
        .with("group", "given-up-group")
        .with("failures", 100)
        .with("max", 1)
        .with("level", 1);
    driver.ask(start).await?;
    driver.ask(of("retry-wait").with("deliveries", 2)).await?;
    let limit = Duration::from_secs(30);
    until("it is among the dead letters", limit, async || {
        let found = look(driver, site, "%DLQ%given-up-group").await?;
        ensure!(found.text("keys")? == "given-up-0", "{found:?}");
        Ok(())
    })
    .await?;
    driver.ask(of("retry-stop")).await?;
    Ok(())
}

/// Groups that stay, each behind: its listener fails for ever. One wants a part of the messages.
/// Each has committed an offset before, or it would have no lag.
async fn waits(lab: &mut Lab, site: &Addresses, target: Target) -> anyhow::Result<()> {
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    for (topic, tags) in [("waiting", "*"), ("partly-waiting", "A")] {
        let produced = produce(site, topic, &sent)
            .with("queues", 1)
            .with("threads", 1)
            .with("tags", "A,B");
        driver.ask(produced.clone().with("count", 10)).await?;
        let start = consume(site, topic, "behind", &pushed).with("tags", tags);
        driver.ask(start).await?;
        let wait = Command::new("consume-wait").with("id", "behind");
        let wanted = if tags == "*" { 10 } else { 5 };
        driver.ask(wait.with("distinct", wanted)).await?;
        let stop = Command::new("consume-stop").with("id", "behind");
        driver.ask(stop).await?;
        driver.ask(produced.with("count", WAITING)).await?;
        let start = Command::new("retry-start")
            .with("id", format!("{topic}-{target:?}"))
            .with("namesrv", site.name_server)
            .with("topic", topic)
            .with("tags", tags)
            .with("group", format!("{topic}-behind"))
            .with("failures", 1_000_000)
            .with("orderly", 1);
        driver.ask(start).await?;
    }
    Ok(())
}

type Labels = BTreeMap<String, String>;

/// A page of metrics. A histogram's samples stand under the name of the histogram.
#[derive(Debug, Default)]
struct Series {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, BTreeMap<Labels, f64>>,
}

impl Series {
    async fn read(address: SocketAddr) -> anyhow::Result<Self> {
        let page = http::get(address, "/metrics").await?;
        ensure!(page.status == 200, "status {}", page.status);
        if let Some(dir) = std::env::var_os("GANTRY_METRICS_PAGES") {
            std::fs::write(Path::new(&dir).join(address.port().to_string()), &page.body)?;
        }
        Self::parse(&page.body)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("a type has a name")?;
                all.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                all.sample(line).with_context(|| line.to_owned())?;
            }
        }
        Ok(all)
    }

    fn sample(&mut self, line: &str) -> anyhow::Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = labels_of(labels.strip_suffix('}').context("no }")?);
        let of = ["_bucket", "_count", "_sum"].into_iter().find_map(|part| {
            let histogram = name.strip_suffix(part)?;
            (self.types.get(histogram)? == "histogram").then_some((histogram, part))
        });
        // Java writes 10.0.
        if let Some(bound) = labels.get_mut("le") {
            *bound = bound.parse::<f64>()?.to_string();
        }
        let name = match of {
            Some((histogram, part)) => {
                labels.insert("part".to_owned(), part.to_owned());
                histogram
            }
            None => name,
        };
        ensure!(self.types.contains_key(name), "no type of {name}");
        let samples = self.samples.entry(name.to_owned()).or_default();
        let twice = samples.insert(labels, value.parse()?);
        ensure!(twice.is_none(), "twice");
        Ok(())
    }
}

fn labels_of(text: &str) -> Labels {
    let mut labels = Labels::new();
    for pair in text
        .split_terminator("\",")
        .map(|p| p.trim_end_matches('"'))
    {
        if let Some((name, value)) = pair.split_once("=\"") {
            labels.insert(name.to_owned(), value.to_owned());
        }
    }
    labels
}

/// What `e2e/metrics-not.toml` says.
#[derive(Debug, Default)]
struct Not {
    /// Series of Java that Gantry has not.
    series: BTreeSet<String>,
    /// Labels of Java that Gantry has not.
    labels: BTreeSet<String>,
    /// Samples that differ, by series and labels.
    values: BTreeMap<String, Vec<Labels>>,
    /// Samples that differ or not, as time has it.
    chance: BTreeMap<String, Vec<Labels>>,
}

impl Not {
    fn read() -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("metrics-not.toml");
        let text = std::fs::read_to_string(path)?;
        let document: DocumentMut = text.parse()?;
        let mut not = Self::default();
        for (kind, entries) in document.iter() {
            for entry in entries.as_array_of_tables().context("a list")? {
                not.entry(kind, entry)
                    .with_context(|| format!("{entry:?}"))?;
            }
        }
        Ok(not)
    }

    fn entry(&mut self, kind: &str, entry: &Table) -> anyhow::Result<()> {
        let text = |name: &str| {
            let value = entry.get(name).and_then(|value| value.as_str());
            value.with_context(|| format!("no {name}"))
        };
        ensure!(!text("reason")?.trim().is_empty(), "an empty reason");
        let name = text("name")?.to_owned();
        let new = match kind {
            "series" => self.series.insert(name),
            "label" => self.labels.insert(name),
            "sample" | "chance" => {
                let labels = labels_of(text("labels")?);
                let of = if kind == "sample" {
                    &mut self.values
                } else {
                    &mut self.chance
                };
                of.entry(name).or_default().push(labels);
                true
            }
            other => anyhow::bail!("{other} is no kind"),
        };
        ensure!(new, "listed twice");
        Ok(())
    }
}

/// Series whose values the traffic makes.
const EQUAL: [&str; 12] = [
    "rocketmq_messages_in_total",
    "rocketmq_messages_out_total",
    "rocketmq_throughput_in_total",
    "rocketmq_throughput_out_total",
    "rocketmq_message_size",
    "rocketmq_send_to_dlq_messages_total",
    "rocketmq_producer_connections",
    "rocketmq_consumer_connections",
    "rocketmq_consumer_lag_messages",
    "rocketmq_consumer_inflight_messages",
    "rocketmq_consumer_ready_messages",
    "rocketmq_broker_permission",
];

/// Of these it makes whether they are 0.
const ZERO_OR_NOT: [&str; 2] = [
    "rocketmq_consumer_lag_latency_milliseconds",
    "rocketmq_consumer_queueing_latency_milliseconds",
];

fn differences(java: &Series, gantry: &Series, not: &Not) -> Vec<String> {
    let mut found = Vec::new();
    let mut unused_labels = not.labels.clone();
    for (name, kind) in &java.types {
        let listed = not.series.contains(name);
        match gantry.types.get(name) {
            None if !listed => found.push(format!("{name}: Gantry has it not")),
            Some(_) if listed => found.push(format!("{name}: listed, but Gantry has it")),
            Some(ours) if ours != kind => found.push(format!("{name}: {ours}, not {kind}")),
            Some(_) => {
                let [java, gantry] = [java, gantry].map(|side| side.samples.get(name));
                let java = java.cloned().unwrap_or_default();
                let java = without(java, not, &mut unused_labels);
                let gantry = gantry.cloned().unwrap_or_default();
                found.extend(compare(name, &java, &gantry, not));
            }
            None => {}
        }
    }
    for name in &not.series {
        if !java.types.contains_key(name) {
            found.push(format!("{name}: listed, but Java has it not"));
        }
    }
    for name in unused_labels {
        found.push(format!("label {name}: listed, but Java has it not"));
    }
    for name in gantry.types.keys() {
        if !java.types.contains_key(name) && !name.starts_with("gantry_") {
            found.push(format!("{name}: Java has it not"));
        }
    }
    found
}

fn without(
    samples: BTreeMap<Labels, f64>,
    not: &Not,
    unused: &mut BTreeSet<String>,
) -> BTreeMap<Labels, f64> {
    let plain = |(mut labels, value): (Labels, f64)| {
        labels.retain(|name, _| {
            unused.remove(name);
            !not.labels.contains(name)
        });
        (labels, value)
    };
    samples.into_iter().map(plain).collect()
}

fn compare(
    name: &str,
    java: &BTreeMap<Labels, f64>,
    gantry: &BTreeMap<Labels, f64>,
    not: &Not,
) -> Vec<String> {
    let mut found = Vec::new();
    let rules = not.values.get(name).map(Vec::as_slice).unwrap_or_default();
    let chances = not.chance.get(name).map(Vec::as_slice).unwrap_or_default();
    let covers = |rule: &Labels, labels: &Labels| {
        rule.iter()
            .all(|(name, value)| labels.get(name) == Some(value))
    };
    let listed = |labels: &Labels| rules.iter().find(|rule| covers(rule, labels));
    let mut unused: BTreeSet<&Labels> = rules.iter().collect();
    let all: BTreeSet<&Labels> = java.keys().chain(gantry.keys()).collect();
    for labels in all {
        if chances.iter().any(|rule| covers(rule, labels)) {
            continue;
        }
        let (theirs, ours) = (java.get(labels), gantry.get(labels));
        let same = match (theirs, ours) {
            (Some(theirs), Some(ours)) => {
                let buckets = labels.get("part").is_some_and(|part| part != "_sum");
                let exactly = EQUAL.contains(&name) || (buckets && name == EQUAL[4]);
                let zero = ZERO_OR_NOT.contains(&name);
                (!exactly || theirs.to_bits() == ours.to_bits())
                    && (!zero || (*theirs > 0.0) == (*ours > 0.0))
            }
            _ => false,
        };
        match listed(labels) {
            Some(rule) if !same => {
                unused.remove(rule);
            }
            None if !same => {
                found.push(format!("{name} {labels:?}: {ours:?}, of Java {theirs:?}"));
            }
            _ => {}
        }
    }
    for rule in unused {
        found.push(format!("{name} {rule:?}: listed, but it agrees"));
    }
    found
}
