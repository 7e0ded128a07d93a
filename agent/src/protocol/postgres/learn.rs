//! Learning which columns are protected, over a connection of the agent's own beside the session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::model::UpstreamAddr;
use crate::session::Session;

use super::catalogue::{Protected, ask};
use super::login::{LoginError, log_in};
use super::serve::Legs;

/// How long the catalogue has to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whom to ask, and how.
#[derive(Clone)]
pub(super) struct Learning<'s> {
    pub(super) session: &'s Session,
    pub(super) legs: &'s Legs,
    pub(super) address: UpstreamAddr,
    pub(super) user: String,
    pub(super) database: String,
}

impl<'s> Learning<'s> {
    /// What is known already, or else the catalogue's answer.
    pub(super) async fn known(&self) -> Result<Arc<Protected>, LoginError> {
        if self.session.target().columns.is_empty() {
            return Ok(Arc::default());
        }
        let target = self.session.target().target.name.to_string();
        match self.legs.catalogues.known(&target, &self.database) {
            Some(known) => Ok(known),
            None => self.clone().asked().await,
        }
    }

    /// The catalogue's answer of now.
    pub(super) fn ask(&self) -> impl Future<Output = Result<Arc<Protected>, LoginError>> + Send + use<'s> {
        self.clone().asked()
    }

    async fn asked(self) -> Result<Arc<Protected>, LoginError> {
        let protected = tokio::time::timeout(PATIENCE, self.answer())
            .await
            .map_err(|_elapsed| LoginError::Exchange("its catalogue did not answer within 15 s".into()))??;
        let protected = Arc::new(protected);
        self.share(Arc::clone(&protected));
        Ok(protected)
    }

    /// Lets other sessions know too.
    pub(super) fn share(&self, protected: Arc<Protected>) {
        let target = self.session.target().target.name.to_string();
        self.legs.catalogues.learn(&target, &self.database, protected);
    }

    async fn answer(&self) -> Result<Protected, LoginError> {
        let parameters: BTreeMap<String, String> = [
            ("user", self.user.as_str()),
            ("database", &self.database),
            ("application_name", "interdict"),
            ("client_encoding", "UTF8"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let legs = self.legs;
        let mut asking = log_in(
            self.address,
            legs.verifier.as_ref(),
            legs.credential.as_ref(),
            &parameters,
        )
        .await?;
        let protected = ask(&mut asking, &self.session.target().columns).await?;
        asking.stream.shutdown().await?;
        Ok(protected)
    }
}
