//! The file with the operator's token, which may be replaced while the service runs.

use std::path::PathBuf;

use super::secret_file::{self, Password};

/// A token, and the file that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    file: PathBuf,
    token: Password,
}

impl TokenFile {
    pub(super) fn read(path: &str) -> Result<Self, String> {
        Ok(Self { file: path.into(), token: secret_file::read(path)?.into() })
    }

    /// What is in the file now.
    pub(crate) fn read_again(&self) -> Result<Self, String> {
        Self::read(self.file.to_str().unwrap_or_default())
    }

    pub(crate) fn token(&self) -> &Password {
        &self.token
    }
}
