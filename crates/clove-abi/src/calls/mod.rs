//! Argument and reply types of the syscalls, one file per family.

mod blob;
mod kernel;
mod proc;
mod run;
mod task;
mod template;

pub use blob::*;
pub use kernel::*;
pub use proc::*;
pub use run::*;
pub use task::*;
pub use template::*;

/// A struct of arguments: unknown and repeated fields are errors.
macro_rules! args {
    ($( $(#[$m:meta])* $name:ident { $( $(#[$fm:meta])* $f:ident: $t:ty ),* $(,)? } )*) => { $(
        $(#[$m])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $( $(#[$fm])* pub $f: $t ),* }
    )* };
}

/// A struct of reply fields: unknown fields are ignored, so that a newer kernel can say more.
macro_rules! reply {
    ($( $(#[$m:meta])* $name:ident { $( $(#[$fm:meta])* $f:ident: $t:ty ),* $(,)? } )*) => { $(
        $(#[$m])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub struct $name { $( $(#[$fm])* pub $f: $t ),* }
    )* };
}
pub(crate) use {args, reply};
