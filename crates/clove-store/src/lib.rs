//! clove-store
