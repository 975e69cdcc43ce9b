//! The class paths that `e2e/java/pom.xml` pins, fetched once by Maven, and the small programs of
//! `e2e/java/src` and `e2e/compat/java`, compiled against each of them with plain `javac`.
//!
//! All of it lies in `$GANTRY_CACHE` (or `~/.cache/gantry`), Maven's own repository included:
//! `java/<crc of the pom>/<class path>/*.jar` and `java/<crc of the sources>/<class path>`. A
//! directory appears under its final name when it is whole, so an interrupted run leaves nothing
//! that a later one would trust.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

use crate::process::run_ok;

/// A class path: the profile of the same name in the pom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClassPath {
    /// Name server, broker and tools, with the client they bring along.
    Server,
    /// The present client.
    Client5,
    /// A client from before the strict route dialect.
    Client4,
    /// RocketMQ's own benchmark programs, which nothing else needs.
    Benchmark,
}

impl ClassPath {
    const ALL: [Self; 3] = [Self::Server, Self::Client5, Self::Client4];

    fn profile(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client5 => "client-5",
            Self::Client4 => "client-4",
            Self::Benchmark => "benchmark",
        }
    }

    /// The sources that compile against it; the others need the server's jars.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Self::Server => &[
                "Driver",
                "Record",
                "Producing",
                "Consuming",
                "Reading",
                "Selecting",
                "Sending",
                "Requesting",
                "Transacting",
                "Retrying",
                "Migrating",
                "Popping",
                "Constants",
                "Expressions",
                "Capture",
                "Admin",
            ],
            Self::Client5 => &[
                "Driver",
                "Record",
                "Producing",
                "Consuming",
                "Reading",
                "Selecting",
                "Sending",
                "Requesting",
                "Transacting",
                "Retrying",
                "Migrating",
                "Popping",
            ],
            Self::Client4 => &[
                "Driver",
                "Record",
                "Producing",
                "Consuming",
                "Reading",
                "Selecting",
                "Sending",
                "Requesting",
                "Transacting",
                "Retrying",
                "Migrating",
            ],
            Self::Benchmark => &[],
        }
    }
}

/// The program of the compatibility checks, which compiles against each.
const COMPAT: [&str; 8] = [
    "Bench",
    "Compat",
    "Connections",
    "Got",
    "Groups",
    "Pulls",
    "Pushes",
    "Sends",
];

#[derive(Debug, Clone)]
pub struct Jars {
    jars: PathBuf,
    classes: PathBuf,
}

impl Jars {
    /// Fetches and compiles what is missing.
    pub async fn ready() -> anyhow::Result<Self> {
        let cache = cache_dir()?;
        let pom = std::fs::read(source_dir().join("pom.xml")).context("e2e/java/pom.xml")?;
        let jars = cache.join(format!("java/{:08x}", crc32fast::hash(&pom)));
        let classes = cache.join(format!("java/{:08x}", sources_crc(&pom)?));
        let ready = Self { jars, classes };
        for class_path in ClassPath::ALL {
            ready.fetch(class_path, &cache).await?;
            ready.compile(class_path).await?;
        }
        Ok(ready)
    }

    /// The jars of RocketMQ's own benchmark programs, fetched when they are wanted.
    pub async fn benchmark(&self) -> anyhow::Result<String> {
        self.fetch(ClassPath::Benchmark, &cache_dir()?).await?;
        let [_, jars] = self.folders(ClassPath::Benchmark);
        Ok(format!("{}/*", jars.display()))
    }

    /// For `java -cp`.
    pub fn class_path(&self, class_path: ClassPath) -> String {
        let [classes, jars] = self.folders(class_path);
        format!("{}:{}/*", classes.display(), jars.display())
    }

    /// Where the classes and the jars lie.
    pub fn folders(&self, class_path: ClassPath) -> [PathBuf; 2] {
        let name = class_path.profile();
        let classes = self.classes.join(format!("{name}-classes"));
        [classes, self.jars.join(name)]
    }

    async fn fetch(&self, class_path: ClassPath, cache: &Path) -> anyhow::Result<()> {
        const MAVEN_MINUTES_MAX: u64 = 15;
        let name = class_path.profile();
        build_whole(&self.jars.join(name), async |partial| {
            let mut maven = Command::new("mvn");
            maven
                .args(["-q", "-B", "-ntp", "-P", name])
                .arg(format!("-Dmaven.repo.local={}", cache.join("m2").display()))
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", partial.display()))
                .current_dir(source_dir());
            run_ok(maven, Duration::from_secs(MAVEN_MINUTES_MAX * 60)).await?;
            Ok(())
        })
        .await
    }

    async fn compile(&self, class_path: ClassPath) -> anyhow::Result<()> {
        const JAVAC_SECONDS_MAX: u64 = 180;
        let name = class_path.profile();
        let jars = self.jars.join(name);
        build_whole(
            &self.classes.join(format!("{name}-classes")),
            async |partial| {
                let mut javac = Command::new("javac");
                javac
                    .args(["-nowarn", "-Xlint:none", "-cp"])
                    .arg(format!("{}/*", jars.display()))
                    .arg("-d")
                    .arg(partial);
                for source in class_path.sources() {
                    javac.arg(package_dir().join(format!("{source}.java")));
                }
                javac.args(compat_sources());
                run_ok(javac, Duration::from_secs(JAVAC_SECONDS_MAX)).await?;
                Ok(())
            },
        )
        .await
    }
}

/// Fills a directory under another name and renames it when it is whole.
pub async fn build_whole(
    target: &Path,
    build: impl AsyncFnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if target.exists() {
        return Ok(());
    }
    let parent = target
        .parent()
        .context("invariant: a directory in the cache")?;
    std::fs::create_dir_all(parent)?;
    let partial = tempfile::Builder::new()
        .prefix("partial-")
        .tempdir_in(parent)?;
    build(partial.path()).await?;
    if std::fs::rename(partial.path(), target).is_err() && !target.exists() {
        anyhow::bail!("can't put {} in place", target.display());
    }
    Ok(())
}

pub fn cache_dir() -> anyhow::Result<PathBuf> {
    if let Some(cache) = std::env::var_os("GANTRY_CACHE") {
        return Ok(PathBuf::from(cache));
    }
    let home = std::env::var_os("HOME").context("neither GANTRY_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/gantry"))
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("java")
}

fn package_dir() -> PathBuf {
    source_dir().join("src/dev/gantry/e2e")
}

fn compat_sources() -> impl Iterator<Item = PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/java");
    COMPAT
        .into_iter()
        .map(move |source| dir.join(format!("{source}.java")))
}

fn sources_crc(pom: &[u8]) -> anyhow::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(pom);
    let driver = ClassPath::Server.sources().iter();
    let driver = driver.map(|source| package_dir().join(format!("{source}.java")));
    for path in driver.chain(compat_sources()) {
        crc.update(&std::fs::read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(crc.finalize())
}
