//! The frame: 24 bytes of header, a JSON body, an optional raw tail.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | body length, u32 little-endian |
//! | 4..8 | tail length |
//! | 8 | version (1) |
//! | 9 | flags: 1 = reply, 2 = the reply is an error |
//! | 10..12 | syscall number |
//! | 12 | count of descriptors sent with it |
//! | 13..16 | zero |
//! | 16..24 | correlation id, chosen by the caller, repeated by the reply |

use crate::error::ErrorCode;

/// Bytes of a header.
pub const HEADER_LEN: usize = 24;
/// Longest body in bytes.
pub const MAX_BODY: usize = 16 << 20;
/// Longest tail in bytes; more goes through a blob.
pub const MAX_TAIL: usize = 64 << 20;
/// Deepest nesting of a body, counted in brackets.
pub const MAX_DEPTH: usize = 96;
/// Most descriptors with one frame.
pub const MAX_FDS: u8 = 8;
/// Flag: this frame answers a call.
pub const FLAG_REPLY: u8 = 1;
/// Flag: the answer is an error.
pub const FLAG_ERROR: u8 = 2;

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub body_len: u32,
    pub tail_len: u32,
    pub flags: u8,
    pub number: u16,
    pub fds: u8,
    pub correlation: u64,
}

impl Header {
    /// The header's 24 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0u8; HEADER_LEN];
        b[0..4].copy_from_slice(&self.body_len.to_le_bytes());
        b[4..8].copy_from_slice(&self.tail_len.to_le_bytes());
        b[8] = crate::ABI_VERSION;
        b[9] = self.flags;
        b[10..12].copy_from_slice(&self.number.to_le_bytes());
        b[12] = self.fds;
        b[16..24].copy_from_slice(&self.correlation.to_le_bytes());
        b
    }

    /// Reads and checks 24 bytes.
    ///
    /// # Errors
    /// [`ErrorCode::BadFrame`] for a wrong version, set padding, unknown flags or lengths beyond the bounds.
    pub fn decode(b: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let mut corr = [0u8; 8];
        corr.copy_from_slice(&b[16..24]);
        let h = Header {
            body_len: u32_at(0),
            tail_len: u32_at(4),
            flags: b[9],
            number: u16::from_le_bytes([b[10], b[11]]),
            fds: b[12],
            correlation: u64::from_le_bytes(corr),
        };
        let fail = |what: &'static str, got: u64, want: u64| {
            Err(FrameError { what, got, want, correlation: h.correlation, number: h.number })
        };
        if b[8] != crate::ABI_VERSION {
            return fail("version", u64::from(b[8]), u64::from(crate::ABI_VERSION));
        }
        if b[13..16] != [0, 0, 0] {
            return fail("padding", 1, 0);
        }
        if h.flags & !(FLAG_REPLY | FLAG_ERROR) != 0 {
            return fail("flags", u64::from(h.flags), u64::from(FLAG_REPLY | FLAG_ERROR));
        }
        if h.body_len as usize > MAX_BODY {
            return fail("body length", u64::from(h.body_len), MAX_BODY as u64);
        }
        if h.tail_len as usize > MAX_TAIL {
            return fail("tail length", u64::from(h.tail_len), MAX_TAIL as u64);
        }
        if h.fds > MAX_FDS {
            return fail("descriptor count", u64::from(h.fds), u64::from(MAX_FDS));
        }
        Ok(h)
    }
}

/// A header that can't be a frame's. The connection is answered once and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad frame: {what} is {got}, expected {want}")]
pub struct FrameError {
    pub what: &'static str,
    pub got: u64,
    pub want: u64,
    pub correlation: u64,
    pub number: u16,
}

impl FrameError {
    /// Always [`ErrorCode::BadFrame`].
    pub fn code(&self) -> ErrorCode {
        ErrorCode::BadFrame
    }
}

/// Checks a body before it is parsed: depth within [`MAX_DEPTH`]. Works on the bytes, allocates nothing.
#[expect(clippy::result_unit_err, reason = "there is one way to fail")]
pub fn check_depth(body: &[u8]) -> Result<(), ()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &c in body {
        if in_string {
            match c {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else {
            match c {
                b'"' => in_string = true,
                b'[' | b'{' => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(());
                    }
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A whole frame as bytes, for a call or a reply.
pub fn encode(number: u16, flags: u8, correlation: u64, body: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut out = encode_head(number, flags, correlation, body, tail.len());
    out.extend_from_slice(tail);
    out
}

/// A frame but for its tail, which follows on its own.
pub fn encode_head(number: u16, flags: u8, correlation: u64, body: &[u8], tail_len: usize) -> Vec<u8> {
    let h = Header {
        body_len: u32::try_from(body.len()).unwrap_or(u32::MAX),
        tail_len: u32::try_from(tail_len).unwrap_or(u32::MAX),
        flags,
        number,
        fds: 0,
        correlation,
    };
    let mut out = Vec::with_capacity(HEADER_LEN + body.len());
    out.extend_from_slice(&h.encode());
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_each_field_is_checked() {
        let h = Header {
            body_len: 7,
            tail_len: 9,
            flags: 1,
            number: 0x0203,
            fds: 2,
            correlation: 0x0102_0304_0506_0708,
        };
        assert_eq!(Header::decode(&h.encode()), Ok(h));
        for (at, byte, what) in [
            (8, 2u8, "version"),
            (14, 1, "padding"),
            (9, 4, "flags"),
            (3, 0xff, "body length"),
            (7, 0xff, "tail length"),
            (12, 9, "descriptor count"),
        ] {
            let mut b = h.encode();
            b[at] = byte;
            assert_eq!(Header::decode(&b).expect_err("must be refused").what, what);
        }
    }

    #[test]
    fn depth_is_bounded_and_strings_do_not_count() {
        assert!(check_depth(&b"[".repeat(MAX_DEPTH)).is_ok());
        assert!(check_depth(&b"[".repeat(MAX_DEPTH + 1)).is_err());
        let mut s = vec![b'"'];
        s.extend(b"[".repeat(1000));
        s.push(b'"');
        assert!(check_depth(&s).is_ok());
        assert!(check_depth(br#""\"[[["#).is_ok());
    }
}
