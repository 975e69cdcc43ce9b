//! Metrics and probes over HTTP, of broker and name server, while a client works.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::http::{self, Page};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Target};
use crate::runner::until;

pub fn rows() -> Vec<Row> {
    vec![
        (
            "the_metrics_count_messages_and_bytes",
            Against::Gantry,
            |lab, _| Box::pin(metrics(lab)),
        ),
        ("the_probes_answer", Against::Gantry, |lab, _| {
            Box::pin(probes(lab))
        }),
    ]
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
