//! A command's connection to its kernel.

use crate::cli::failure::Failure;
use crate::cli::stdio;
use clove_abi::Syscall;
use clove_client::start::{Connected, connect_again};
use clove_client::{Client, ClientError, Paths, StartError, StartOptions, connect_or_start};

/// One command's connection, and the way to further ones.
pub struct Session {
    pub client: Client,
    pub paths: Paths,
    name: String,
}

impl Session {
    /// Connects; the kernel is started first when there is none. `name` is the command, for example `clove ps`.
    ///
    /// # Errors
    /// No kernel can be had.
    pub fn open(name: &str) -> Result<Session, Failure> {
        let options = StartOptions::from_env(name)?;
        let connected = connect_or_start(&options)?;
        Ok(Session::from_connected(connected, options))
    }

    /// Connects to a kernel that runs already; `None` when there is none.
    ///
    /// # Errors
    /// The folders can't be used, or it doesn't answer as a kernel does.
    pub fn open_if_running(name: &str) -> Result<Option<Session>, Failure> {
        let options = StartOptions { start: false, ..StartOptions::from_env(name)? };
        match connect_or_start(&options) {
            Ok(connected) => Ok(Some(Session::from_connected(connected, options))),
            Err(StartError::NotRunning { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn from_connected(c: Connected, options: StartOptions) -> Session {
        if let Some(note) = c.note {
            stdio::say(&format!("note: {note}"));
        }
        Session { client: c.client, paths: c.paths, name: options.client }
    }

    /// A call.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call<C: Syscall>(&mut self, call: &C) -> Result<C::Reply, ClientError> {
        self.client.call(call)
    }

    /// A further connection, for a thread that waits on its own.
    ///
    /// # Errors
    /// The kernel is gone.
    pub fn again(&self) -> Result<Client, Failure> {
        Ok(connect_again(&self.paths, &self.name)?)
    }
}
