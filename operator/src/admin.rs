//! Calls to name servers and brokers over the admin protocol, signed when there are credentials.
//! What changes something there passes only while its process leads, as writes to Kubernetes do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use net::client::{CallError, Connection};
use protocol::acl::{self, Credentials};
use protocol::{Frame, Header, RequestCode, ResponseCode, json};
use serde::de::DeserializeOwned;

use crate::Error;
use crate::leader::Leader;
use crate::metrics::Metrics;

const OPEN_TIME_MAX: Duration = Duration::from_secs(3);
const CALL_TIME_MAX: Duration = Duration::from_secs(5);

/// Who calls: what its calls are signed with, and whether it may write.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub credentials: Option<Credentials>,
    pub leader: Arc<Leader>,
    pub metrics: Metrics,
}

/// One connection.
pub(crate) struct Admin {
    address: String,
    connection: Connection,
    caller: Caller,
}

impl Admin {
    pub(crate) async fn open(address: &str, caller: &Caller) -> Result<Self, Error> {
        let connection = Connection::open(address, OPEN_TIME_MAX).await?;
        Ok(Admin {
            address: address.to_owned(),
            connection,
            caller: caller.clone(),
        })
    }

    /// Changes something.
    pub(crate) async fn write(&mut self, request: Frame) -> Result<(), Error> {
        if !self.caller.leader.leads() {
            return Err(Error::NotLeader);
        }
        let code = RequestCode::from_number(request.code);
        let name = code.map_or("other", RequestCode::java_name);
        self.caller.metrics.changed(name);
        self.ask(request).await.map(drop)
    }

    /// Asks for something that is there, or has to be.
    pub(crate) async fn ask(&mut self, request: Frame) -> Result<Frame, Error> {
        let signed = self.signed(request);
        Ok(self.connection.ask(signed, CALL_TIME_MAX).await?)
    }

    /// Asks for a body that has to be there.
    pub(crate) async fn read<T: DeserializeOwned>(
        &mut self,
        code: RequestCode,
        header: &impl Header,
    ) -> Result<T, Error> {
        let answer = self.ask(Frame::request(code, header)).await?;
        json::from_fastjson(&answer.body).map_err(|error| Error::Answer {
            address: self.address.clone(),
            reason: error.to_string(),
        })
    }

    /// Asks for something that may be missing, which the code `missing` says.
    pub(crate) async fn find<T: DeserializeOwned>(
        &mut self,
        code: RequestCode,
        header: &impl Header,
        missing: ResponseCode,
    ) -> Result<Option<T>, Error> {
        let signed = self.signed(Frame::request(code, header));
        match self.connection.ask(signed, CALL_TIME_MAX).await {
            Ok(answer) => json::from_fastjson(&answer.body)
                .map(Some)
                .map_err(|error| Error::Answer {
                    address: self.address.clone(),
                    reason: error.to_string(),
                }),
            Err(CallError::Refused { code, .. }) if code == missing.number() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn signed(&self, mut request: Frame) -> Frame {
        if let Some(credentials) = &self.caller.credentials {
            acl::sign(&mut request, credentials);
        }
        request
    }
}

/// The credentials in a mounted Secret, read anew each time, since a Secret may change. No files,
/// or empty ones, are no credentials.
pub(crate) async fn credentials(dir: Option<&Path>) -> Result<Option<Credentials>, Error> {
    let Some(dir) = dir.map(Path::to_owned) else {
        return Ok(None);
    };
    let read = tokio::task::spawn_blocking(move || {
        let word = |name: &str| {
            let path = dir.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                Err(source) => Err(Error::Credentials { path, source }),
            }
        };
        let (access_key, secret_key) = (word("accessKey")?, word("secretKey")?);
        let given = !access_key.is_empty() && !secret_key.is_empty();
        Ok(given.then_some(Credentials {
            access_key,
            secret_key,
        }))
    });
    read.await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use protocol::header::Empty;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_does_not_lead_changes_no_broker() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let caller = Caller {
            credentials: None,
            leader: Arc::default(),
            metrics: Metrics::new(),
        };
        let mut admin = Admin::open(&address, &caller).await.expect("open");
        let (mut stream, _) = listener.accept().await.expect("connected");
        let request = Frame::request(RequestCode::UpdateAndCreateTopic, &Empty);
        let refused = admin.write(request).await;
        assert!(matches!(refused, Err(Error::NotLeader)), "{refused:?}");
        drop(admin);
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("closed");
        assert_eq!(heard, b"");
    }
}
