//! Metrics, probes and the log's level over HTTP, of broker and name server, while a client works.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::bench::calls;
use crate::http::{self, Page};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Target};
use crate::process::{free_ports, local};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "the_metrics_count_messages_and_bytes",
            Against::Gantry,
            |lab, _| Box::pin(metrics(lab)),
        ),
        (
            "metrics_of_ten_thousand_topics_are_read_at_once",
            Against::Gantry,
            |lab, _| Box::pin(many(lab)),
        ),
        ("the_probes_answer", Against::Gantry, |lab, _| {
            Box::pin(probes(lab))
        }),
        (
            "a_broker_is_ready_once_it_is_registered",
            Against::Gantry,
            |lab, _| Box::pin(readiness(lab)),
        ),
        ("logs_are_text_or_json", Against::Gantry, |lab, _| {
            Box::pin(logs(lab))
        }),
        (
            "the_log_level_changes_while_it_runs",
            Against::Gantry,
            |lab, _| Box::pin(log_level(lab)),
        ),
    ]
}

/// A message to each of 10,000 topics, and the page that counts them.
async fn many(lab: &mut Lab) -> anyhow::Result<()> {
    const TOPICS: usize = 10_000;
    const SCRAPE_MAX: Duration = Duration::from_millis(50);
    /// The quickest counts: the machine has other things to do too.
    const SCRAPES: usize = 10;
    let site = lab.site(Target::Gantry, "many-topics").await?;
    let broker = site.plan.remoting();
    calls::topics(broker, TOPICS, 1).await?;
    calls::send_to_each(broker, TOPICS).await?;
    let mut quickest = Duration::MAX;
    let mut page = None;
    for _ in 0..SCRAPES {
        let start = Instant::now();
        page = Some(http::get(site.plan.http(), "/metrics").await?);
        quickest = quickest.min(start.elapsed());
    }
    let page = page.context("read above")?;
    let lines = page.body.lines();
    let counted = lines
        .filter(|line| line.starts_with("rocketmq_messages_in_total{"))
        .count();
    println!("    {} bytes in {quickest:?}", page.body.len());
    ensure!(counted >= TOPICS, "{counted} topics are counted");
    ensure!(quickest < SCRAPE_MAX, "a scrape took {quickest:?}");
    Ok(())
}

async fn metrics(lab: &mut Lab) -> anyhow::Result<()> {
    const MESSAGES: usize = 300;
    const BODY_BYTES: usize = 1_000;
    let site = lab.shared(Target::Gantry).await?;
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    let topic = "counted";
    let job = produce(&site, topic, &sent)
        .with("count", MESSAGES)
        .with("bodyBytes", BODY_BYTES);
    driver.ask(job).await?;
    driver.ask(consume(&site, topic, "group", &pushed)).await?;
    let wait = Command::new("consume-wait")
        .with("id", "group")
        .with("distinct", MESSAGES);
    driver.ask(wait).await?;
    let page = http::get(site.broker_http, "/metrics").await?;
    driver
        .ask(Command::new("consume-stop").with("id", "group"))
        .await?;
    ensure!(page.status == 200, "status {}", page.status);
    ensure!(
        page.head
            .to_lowercase()
            .contains("content-type: text/plain"),
        "{}",
        page.head
    );
    let label = format!("topic=\"{topic}\"");
    let count = MESSAGES as f64;
    let bytes = count * BODY_BYTES as f64;
    let rows = [
        ("rocketmq_messages_in_total", label.as_str(), count, count),
        ("rocketmq_messages_out_total", &label, count, count),
        ("rocketmq_throughput_in_total", &label, bytes, bytes * 1.5),
        ("rocketmq_throughput_out_total", &label, bytes, bytes * 1.5),
        (
            "rocketmq_rpc_latency_milliseconds_count",
            "request_code=\"send_message_v2\"",
            count,
            f64::MAX,
        ),
        ("rocketmq_storage_size_bytes", "", bytes, f64::MAX),
        ("gantry_disk_size_bytes", "", bytes, f64::MAX),
        ("gantry_disk_used_bytes", "", bytes, f64::MAX),
        ("gantry_connections", "kind=\"tcp\"", 1.0, 100.0),
    ];
    for (name, label, least, most) in rows {
        within(&page, name, label, least..=most)?;
    }
    let names = site
        .name_server_http
        .context("Gantry's name server has pages")?;
    let page = http::get(names, "/metrics").await?;
    within(&page, "gantry_connections", "", 1.0..=100.0)
}

fn within(
    page: &Page,
    name: &str,
    label: &str,
    range: std::ops::RangeInclusive<f64>,
) -> anyhow::Result<()> {
    let value = page.metric(name, label);
    let value = value.with_context(|| format!("no {name} with {label:?}"))?;
    ensure!(
        range.contains(&value),
        "{name} is {value}, not in {range:?}"
    );
    Ok(())
}

async fn probes(lab: &mut Lab) -> anyhow::Result<()> {
    let site = lab.shared(Target::Gantry).await?;
    let names = site
        .name_server_http
        .context("Gantry's name server has pages")?;
    for address in [site.broker_http, names] {
        for (path, status) in [("/livez", 200), ("/readyz", 200), ("/absent", 404)] {
            answers(address, path, status).await?;
        }
    }
    Ok(())
}

async fn answers(address: SocketAddr, path: &str, status: u16) -> anyhow::Result<()> {
    until("the page", Duration::from_secs(5), async || {
        let page = http::get(address, path).await?;
        ensure!(
            page.status == status,
            "{path} answers {}: {}",
            page.status,
            page.body
        );
        Ok(())
    })
    .await
}

/// Not ready, and why, until its name server is there.
async fn readiness(lab: &mut Lab) -> anyhow::Result<()> {
    let address = local(free_ports(2)?);
    let plan = lab.plan("readiness", &[address])?;
    let _broker = lab.gantry()?.spawn_broker(&plan)?;
    let limit = Duration::from_secs(15);
    until("the broker says what it waits for", limit, async || {
        let page = http::get(plan.http(), "/readyz").await?;
        let why = page.body.contains(&address.to_string());
        ensure!(page.status == 503 && why, "{page:?}");
        Ok(())
    })
    .await?;
    answers(plan.http(), "/livez", 200).await?;
    let _names = lab.name_server_at(Target::Gantry, address).await?;
    answers(plan.http(), "/readyz", 200).await
}

async fn logs(lab: &mut Lab) -> anyhow::Result<()> {
    for format in ["text", "json"] {
        let port = free_ports(2)?;
        let log = lab.fresh_dir("logs")?.join("out.log");
        let gantry = lab.gantry()?;
        let options = ["--log", format];
        let _names = gantry
            .start_name_server_with(local(port), local(port + 1), &log, &options)
            .await?;
        let text = std::fs::read_to_string(&log)?;
        ensure!(text.contains("name server started"), "{text}");
        let objects = text.lines().filter(|line| {
            let object = serde_json::from_str::<Value>(line).unwrap_or_default();
            let said = |value: Option<&Value>| value.is_some_and(Value::is_string);
            let message = object.pointer("/fields/message");
            said(object.get("timestamp")) && said(object.get("level")) && said(message)
        });
        let wanted = if format == "json" {
            text.lines().count()
        } else {
            0
        };
        ensure!(objects.count() == wanted, "{format}: {text}");
    }
    Ok(())
}

async fn log_level(lab: &mut Lab) -> anyhow::Result<()> {
    let port = free_ports(2)?;
    let pages = local(port + 1);
    let log = lab.fresh_dir("log-level")?.join("out.log");
    let gantry = lab.gantry()?;
    let _names = gantry.start_name_server(local(port), pages, &log).await?;
    // What is no HTTP is worth a line only to who looks closely.
    let nonsense = async || {
        let mut stream = TcpStream::connect(pages).await?;
        stream.write_all(b"nonsense\r\n\r\n").await?;
        anyhow::Ok(std::fs::read_to_string(&log)?.contains("an HTTP connection ended"))
    };
    ensure!(!nonsense().await?, "logged at the level info");
    for (wanted, status, level) in [
        ("", 400, "info\n"),
        ("debgu", 400, "info\n"),
        ("warn,net=debug", 200, "warn,net=debug\n"),
    ] {
        let page = http::put(pages, "/log-level", wanted).await?;
        ensure!(page.status == status, "{wanted}: {page:?}");
        let page = http::get(pages, "/log-level").await?;
        ensure!(page.status == 200 && page.body == level, "{page:?}");
    }
    until("it is logged", Duration::from_secs(10), async || {
        ensure!(nonsense().await?, "not yet");
        Ok(())
    })
    .await
}
