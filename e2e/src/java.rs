//! Official Java: the jars ([`jars`]), a client that is driven line by line ([`driver`]), the
//! name server and the broker ([`server`]).

pub mod jars;
pub mod driver;
pub mod server;

use tokio::process::Command;

/// A small JVM that starts quickly, keeps its logs under `home` and nothing in the user's.
pub fn command(class_path: &str, home: &std::path::Path, heap_mib: u32) -> Command {
    let options = [
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        &format!("-Xmx{heap_mib}m"),
    ];
    command_with(class_path, home, &options)
}

/// A JVM with these options, otherwise like [`command`]'s.
pub fn command_with(class_path: &str, home: &std::path::Path, options: &[&str]) -> Command {
    let mut command = Command::new("java");
    let home_text = home.display();
    command
        .args(options)
        .arg(format!("-Duser.home={home_text}"))
        .arg(format!("-Drocketmq.client.logRoot={home_text}"))
        .arg(format!("-Drocketmq.log.root={home_text}"))
        .args(OPENED)
        .args(["-cp", class_path])
        .env("ROCKETMQ_HOME", home)
        .env_remove("NAMESRV_ADDR");
    command
}

/// What the broker reaches into on Java 17.
const OPENED: [&str; 3] = [
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
];
