//! Addresses of private networks, which a server outside must not be able to select.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns true for addresses that are not global: those of private networks, of this host, of the
/// local link (where clouds have their metadata services), and of multicast groups.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

/// RFC 6890 and its registry.
fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || a == 0
        // Carrier-grade NAT, RFC 6598; benchmarks, RFC 2544; protocol assignments, RFC 6890.
        || (a == 100 && b & 0xc0 == 64)
        || (a == 198 && b & 0xfe == 18)
        || (a == 192 && b == 0 && c == 0)
        // Reserved, including the broadcast address.
        || a >= 240
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embedded = match segments {
        // ::a.b.c.d, ::ffff:a.b.c.d and the translation prefix 64:ff9b::/96 of RFC 6052.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some((high, low))
        }
        // 6to4, RFC 3056.
        [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    let embedded = embedded.map(|(high, low)| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    });
    embedded.is_some_and(is_private_v4)
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        // Unique local fc00::/7, link-local fe80::/10, site-local fec0::/10, local translation
        // 64:ff9b:1::/48 (RFC 8215).
        || segments[0] & 0xfe00 == 0xfc00
        || segments[0] & 0xff80 == 0xfe80
        || segments[..3] == [0x64, 0xff9b, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_all_their_forms() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "198.18.0.1",
            "192.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "2002:7f00:1::",
        ] {
            assert!(is_private(private.parse().expect(private)), "{private}");
        }
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "64:ff9b::1.1.1.1",
            "::ffff:1.1.1.1",
            "2002:101:101::",
        ] {
            assert!(!is_private(public.parse().expect(public)), "{public}");
        }
    }
}
