//! The handlers: one small file for each row of the table, `FAMILY/VERB.rs`, with one function `handle`.

macro_rules! derive_modules {
    ($( $family:ident { $( $(#[doc = $d:literal])* $n:literal $verb:ident $Args:ident -> $Reply:ident { $($traits:tt)* } )* } )*) => {
        $( #[doc = concat!("Handlers of the family `", stringify!($family), "`.")]
        pub mod $family { $( pub mod $verb; )* } )*
    };
}
clove_abi::syscall_table!(derive_modules);
