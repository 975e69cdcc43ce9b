//! Why a request is refused: the code on which the client decides, and a sentence for people.

use crate::code::ResponseCode;
use crate::fields::FieldError;
use crate::frame::Frame;
use crate::json::JsonError;
use crate::topic::NameError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {remark}", code.java_name())]
pub struct Refusal {
    pub code: ResponseCode,
    pub remark: String,
}

impl Refusal {
    pub fn new(code: ResponseCode, remark: impl Into<String>) -> Self {
        Self {
            code,
            remark: remark.into(),
        }
    }

    /// The answer to `request`.
    pub fn answer(&self, request: &Frame) -> Frame {
        request.answer(self.code).with_remark(self.remark.clone())
    }

    /// A code that nobody here serves (`NettyRemotingAbstract.java`).
    pub fn unsupported(code: i32) -> Self {
        let remark = format!(" request type {code} not supported");
        Self::new(ResponseCode::RequestCodeNotSupported, remark)
    }
}

/// A header that Java would fail on with a `NullPointerException`, as the same code.
impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::new(ResponseCode::SystemError, error.to_string())
    }
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        Self::new(ResponseCode::SystemError, error.to_string())
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(ResponseCode::InvalidParameter, error.to_string())
    }
}
