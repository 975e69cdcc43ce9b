//! What a port takes beside plain frames: TLS, the word of a load balancer, and the second port
//! of clients that keep their sends apart.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use protocol::record::Record;

use super::messages::{consume, produce};
use super::{Against, Row};
use crate::java::driver::{Client, Command};
use crate::lab::{Lab, Site, Target, route};
use crate::process::{free_ports, local};
use crate::raw::{self, Connection};
use crate::{http, record};

pub fn rows() -> Vec<Row> {
    vec![
        (
            "tls_java_clients_pass_messages",
            Against::Both,
            |lab, target| Box::pin(tls_passes(lab, target)),
        ),
        ("tls_enforcing_refuses_plain", Against::Gantry, |lab, _| {
            Box::pin(enforcing(lab))
        }),
        (
            "tls_broken_handshakes_are_closed",
            Against::Gantry,
            |lab, _| Box::pin(broken_handshakes(lab)),
        ),
        ("a_proxy_names_the_client", Against::Both, |lab, target| {
            Box::pin(proxied(lab, target))
        }),
        (
            "a_proxy_that_is_not_trusted_is_closed",
            Against::Gantry,
            |lab, _| Box::pin(not_trusted(lab)),
        ),
        (
            "java_clients_use_the_vip_port",
            Against::Both,
            |lab, target| Box::pin(vip(lab, target)),
        ),
    ]
}

/// A site of the test's own whose broker has these lines under `listen:`.
async fn site(lab: &mut Lab, target: Target, name: &str, listen: &str) -> anyhow::Result<Site> {
    let name_server = lab.name_server(target).await?;
    let mut plan = lab.plan(name, &[name_server.address])?;
    listen.clone_into(&mut plan.extra_listen);
    plan.extra_yaml
        .push_str("limits: {handshakeSecondsMax: 1}\n");
    let broker = lab.broker(target, &plan).await?;
    Ok(Site {
        name_server,
        broker,
        plan,
    })
}

const ENFORCING: &str = "  tls: {mode: enforcing}\n";

/// The clients accept any certificate, as they do unless they are told otherwise. They use TLS
/// to the name server too.
async fn tls_passes(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 1_000;
    let site = site(lab, target, "tls", ENFORCING).await?;
    let addresses = super::crash::addresses(&site);
    for client in [Client::V5, Client::V4] {
        let topic = format!("tls-{client:?}");
        let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
        let driver = lab.driver(client).await?;
        let job = produce(&addresses, &topic, &sent)
            .with("tls", 1)
            .with("bodyBytes", 3_000)
            .with("count", MESSAGES);
        let produced = driver.ask(job).await?;
        ensure!(
            produced.number("failures")? == 0,
            "{}",
            produced.text("firstFailure")?
        );
        let job = consume(&addresses, &topic, "tls", &pushed).with("tls", 1);
        driver.ask(job).await?;
        let wait = Command::new("consume-wait")
            .with("id", "tls")
            .with("distinct", MESSAGES);
        driver.ask(wait).await?;
        driver
            .ask(Command::new("consume-stop").with("id", "tls"))
            .await?;
        record::exactly(&record::read(&sent)?, &record::read(&pushed)?)?;
    }
    Ok(())
}

async fn enforcing(lab: &mut Lab) -> anyhow::Result<()> {
    let site = site(lab, Target::Gantry, "enforcing", ENFORCING).await?;
    let plain = raw::json_request(30, 1, &[("topic", "TBW102"), ("queueId", "0")], b"");
    closed(site.plan.remoting(), &plain, 5.0).await?;
    let addresses = super::crash::addresses(&site);
    let send = produce(&addresses, "enforcing", &lab.record_file("sent"))
        .renamed("send")
        .with("retries", 0)
        .with("timeoutMs", 3_000);
    let driver = lab.driver(Client::V5).await?;
    let thrown = driver.attempt(send.clone()).await?;
    ensure!(thrown.is_err(), "a plain send passed: {thrown:?}");
    driver.ask(send.with("tls", 1)).await?;

    let address = local(free_ports(2)?);
    let log = lab.fresh_dir("enforcing")?.join("out.log");
    let gantry = lab.gantry()?;
    let options = ["--tls-mode", "enforcing"];
    let name_server = gantry
        .start_name_server_with(address, local(address.port() + 1), &log, &options)
        .await?;
    let plain = raw::json_request(105, 1, &[("topic", "TBW102")], b"");
    closed(address, &plain, 5.0).await?;
    // Its brokers come in TLS; it is asked in TLS as well.
    let mut plan = lab.plan("over-tls", &[address])?;
    plan.name_servers_tls = true;
    let broker = gantry.start_broker(&plan).await?;
    let name_server_option = format!("tls://{address}");
    let get = [
        "topic",
        "get",
        "TBW102",
        "--name-server",
        &name_server_option,
    ];
    let got = gantry.run(&get).await?;
    ensure!(got.status.success(), "{got:?}");
    drop((name_server, broker));
    Ok(())
}

async fn broken_handshakes(lab: &mut Lab) -> anyhow::Result<()> {
    let site = site(lab, Target::Gantry, "broken", "").await?;
    let stalled = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc];
    let broker = site.plan.remoting();
    let zeal = vec![0x16; 100_000];
    let rows: [(&[u8], f32); 4] = [
        (&stalled, 5.0),
        (b"\x16\x03\x01\x00\x05hello", 1.0),
        (&zeal, 1.0),
        (b"\x16", 5.0),
    ];
    for (bytes, seconds_max) in rows {
        closed(broker, bytes, seconds_max).await?;
    }
    closed(site.name_server.address, rows[1].0, 1.0).await?;
    let page = http::get(site.plan.http(), "/readyz").await?;
    ensure!(page.status == 200, "/readyz answers {}", page.status);
    ensure!(!site.broker.output().contains("panicked"), "a panic");
    route(site.name_server.address, "TBW102").await?;
    Ok(())
}

/// Nothing comes back to these bytes but the end of the connection, in time.
async fn closed(address: SocketAddr, bytes: &[u8], seconds_max: f32) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let started = Instant::now();
    connection.write(bytes).await;
    let ended = connection.closes_within(Duration::from_secs(10)).await;
    let seconds = started.elapsed().as_secs_f32();
    ensure!(
        ended && seconds < seconds_max,
        "{:x?}: closed {ended} after {seconds} s",
        bytes.get(..9)
    );
    Ok(())
}

/// A header of version 2: command and family, then addresses and ports.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend((body.len() as u16).to_be_bytes());
    header.extend(body);
    header
}

const TRUST: &str = "  proxyProtocolFrom: [127.0.0.0/8]\n";

/// Java answers behind such a header too; its messages keep the load balancer's address.
async fn proxied(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    let site = site(lab, target, "proxied", TRUST).await?;
    let tcp4 = [192, 0, 2, 1, 192, 0, 2, 9, 0xc3, 0x50, 0x2a, 0x9f];
    let mut tcp6 = [0_u8; 36];
    tcp6[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    tcp6[15] = 1;
    tcp6[32..].copy_from_slice(&[0xc3, 0x50, 0x2a, 0x9f]);
    let with_field = [&tcp4[..], &[0x04, 0, 2, b'h', b'i']].concat();
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.9 50000 10911\r\n";
    let v1_v6 = b"PROXY TCP6 2001:db8::1 ::1 50000 10911\r\n";
    let rows: [(Vec<u8>, &str); 7] = [
        (v1.to_vec(), "192.0.2.1:50000"),
        (v1_v6.to_vec(), "[2001:db8::1]:50000"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
        (v2(0x21, 0x11, &tcp4), "192.0.2.1:50000"),
        (v2(0x21, 0x11, &with_field), "192.0.2.1:50000"),
        (v2(0x21, 0x21, &tcp6), "[2001:db8::1]:50000"),
        (v2(0x20, 0x00, b""), "127.0.0.1:"),
    ];
    for (offset, (header, client)) in rows.iter().enumerate() {
        let record = send_and_pull(&site, header, offset)
            .await
            .with_context(|| String::from_utf8_lossy(header).into_owned())?;
        if target == Target::Gantry {
            let born = Record::decode(&record)?.born_host.to_string();
            ensure!(born.starts_with(client), "{client} is known as {born}");
        }
    }
    if target == Target::Gantry {
        for header in [
            b"PROXY TCP4 nonsense\r\n".to_vec(),
            b"PROXY TCP4 192.0".to_vec(),
            v2(0x21, 0x11, &tcp4[..8]),
            v2(0x21, 0x21, &tcp4),
            v2(0x31, 0x11, &tcp4),
            v2(0x21, 0x11, &vec![0; 60_000]),
            v2(0x21, 0x11, &tcp4)[..20].to_vec(),
        ] {
            closed(site.plan.remoting(), &header, 5.0).await?;
        }
    }
    Ok(())
}

/// What the broker stores of a message that is sent behind a header.
async fn send_and_pull(site: &Site, header: &[u8], offset: usize) -> anyhow::Result<Vec<u8>> {
    let send = [
        ("a", "proxied"),
        ("b", "proxied"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", ""),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    let mut connection = Connection::open(site.plan.remoting()).await?;
    let request = raw::json_request(310, 1, &send, b"body");
    let sent = connection.call(&[header, &request].concat()).await?;
    ensure!(sent.code == 0, "{} {}", sent.code, sent.remark);
    let offset = offset.to_string();
    let pull = [
        ("consumerGroup", "proxied"),
        ("topic", "proxied"),
        ("queueId", "0"),
        ("queueOffset", offset.as_str()),
        ("maxMsgNums", "1"),
        ("sysFlag", "6"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "5000"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("expressionType", "TAG"),
    ];
    let pulled = connection
        .call(&raw::json_request(11, 2, &pull, b""))
        .await?;
    ensure!(pulled.code == 0, "{} {}", pulled.code, pulled.remark);
    Ok(pulled.body)
}

async fn not_trusted(lab: &mut Lab) -> anyhow::Result<()> {
    let site = site(
        lab,
        Target::Gantry,
        "untrusted",
        "  proxyProtocolFrom: [10.0.0.0/8]\n",
    )
    .await?;
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.9 50000 10911\r\n";
    closed(site.plan.remoting(), v1, 5.0).await?;
    closed(site.plan.remoting(), &v2(0x20, 0x00, b""), 5.0).await
}

async fn vip(lab: &mut Lab, target: Target) -> anyhow::Result<()> {
    const MESSAGES: usize = 200;
    let open = site(lab, target, "vip", "").await?;
    let addresses = super::crash::addresses(&open);
    let (sent, pushed) = (lab.record_file("sent"), lab.record_file("pushed"));
    let driver = lab.driver(Client::V5).await?;
    let job = produce(&addresses, "vip", &sent)
        .with("vip", 1)
        .with("count", MESSAGES);
    driver.ask(job).await?;
    let job = consume(&addresses, "vip", "vip", &pushed).with("vip", 1);
    driver.ask(job).await?;
    let wait = Command::new("consume-wait")
        .with("id", "vip")
        .with("distinct", MESSAGES);
    driver.ask(wait).await?;
    driver
        .ask(Command::new("consume-stop").with("id", "vip"))
        .await?;
    record::exactly(&record::read(&sent)?, &record::read(&pushed)?)?;
    let direct = raw::json_request(30, 1, &[("topic", "vip"), ("queueId", "0")], b"");
    let mut connection = Connection::open(local(open.plan.port - 2)).await?;
    ensure!(connection.call(&direct).await?.code == 0, "the second port");
    if target == Target::Gantry {
        let shut = site(lab, target, "no-vip", "  vip: false\n").await?;
        let refused = Connection::open(local(shut.plan.port - 2)).await;
        ensure!(refused.is_err(), "the second port is open");
    }
    Ok(())
}
