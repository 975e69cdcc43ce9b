//! Tests of `memmove.c`, which every copy of bytes in this program calls.

/// What a copy within `bytes` leaves, made byte by byte.
fn expected(bytes: &[u8], from: usize, to: usize, len: usize) -> Vec<u8> {
    let of = |at: usize| {
        let source = if (to..to + len).contains(&at) {
            at - to + from
        } else {
            at
        };
        bytes[source]
    };
    (0..bytes.len()).map(of).collect()
}

#[test]
fn bytes_are_copied_whatever_their_number_and_overlap() {
    const NEAR: usize = 140;
    let all: Vec<u8> = (0..20_000u32).map(|at| (at * 7 + at / 256) as u8).collect();
    let lens = (0..=300usize).chain([511, 512, 513, 4_095, 4_096, 4_097, 5_003]);
    for len in lens {
        let shifts = (0..=NEAR).chain([len.saturating_sub(1), len, len + 1, len + 65]);
        for shift in shifts {
            for (from, to) in [(NEAR, NEAR + shift), (NEAR + shift, NEAR)] {
                let end = NEAR + shift + len + NEAR;
                let mut copied = all[..end].to_vec();
                copied.copy_within(from..from + len, to);
                let right = expected(&all[..end], from, to, len);
                let wrong = copied.iter().zip(&right).position(|(a, b)| a != b);
                assert_eq!(wrong, None, "{len} bytes from {from} to {to}");
            }
        }
    }
    for len in 0..5_000 {
        assert!(
            all[3..3 + len].to_vec().iter().eq(&all[3..3 + len]),
            "{len}"
        );
    }
}
