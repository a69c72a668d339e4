//! The token with which a client says who it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A bearer token, not checked. Its `Debug` form hides it: whoever prints a frame, an input or an output prints no credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BearerToken(pub String);

impl From<&str> for BearerToken {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use crate::session::SessionOutput;
    use crate::{ClientFrame, client};

    #[test]
    fn a_token_is_sent_as_its_text_and_never_printed() {
        let frame: ClientFrame = serde_json::from_str(r#"{"type":"hello","token":"S3CRET"}"#).unwrap();
        let ClientFrame::Hello { token, .. } = frame else { panic!("no hello") };
        assert_eq!((token.0.as_str(), serde_json::to_string(&token).unwrap().as_str()), ("S3CRET", "\"S3CRET\""));
        let output = SessionOutput::Authenticate { token: token.clone(), device: None, position: None };
        for printed in [format!("{token:?}"), format!("{output:?}"), format!("{:#?}", client::Input::Token(token))] {
            assert!(printed.contains("***") && !printed.contains("S3CRET"), "{printed}");
        }
    }
}
