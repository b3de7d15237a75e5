//! Text that came from the target, or has such text in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Text from the target: names, paths, arguments, and sentences built with them.
///
/// It may hold terminal escapes, newlines or bidirectional controls, so it has no `Display`: a renderer
/// must choose how to escape it, and forgetting to does not compile. Copies share the text: the same few names come in each
/// of ten thousand frames.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Foreign(Arc<str>);

impl Foreign {
    /// The text as it came. Compare and build with it; print it only through a renderer's escaping.
    #[must_use]
    pub fn untrusted(&self) -> &str {
        &self.0
    }
    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Bytes from the target, lossily decoded.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(String::from_utf8_lossy(bytes).into())
    }
}

impl From<String> for Foreign {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Foreign {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}
