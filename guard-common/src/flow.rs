/// An IPv6 address, or an IPv4 address in its v4-mapped form, in network byte order.
pub type Address = [u8; 16];

/// One direction of a TCP connection: who connects (`src`) to what (`dst`). Key of FLOWS and WHO.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Cookie of the network namespace; without it, the same four numbers in another namespace would be let through.
    pub netns: u64,
    /// The connecting side.
    pub src: Address,
    /// The side that listens.
    pub dst: Address,
    /// Port of the connecting side, host byte order.
    pub src_port: u16,
    /// Port of the listening side, host byte order.
    pub dst_port: u16,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<Flow>() == 48);

impl Flow {
    /// The flow from `src` to `dst`.
    #[inline(always)]
    pub const fn new(netns: u64, src: Address, src_port: u16, dst: Address, dst_port: u16) -> Self {
        Self { netns, src, dst, src_port, dst_port, zero: 0 }
    }

    /// An address from a `__be32` as the kernel keeps it in memory.
    #[inline(always)]
    pub const fn v4(be: u32) -> Address {
        let [a, b, c, d] = be.to_ne_bytes();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    /// An address from `__be32[4]` as the kernel keeps it in memory.
    #[inline(always)]
    pub const fn v6(be: [u32; 4]) -> Address {
        let [a, b, c, d] =
            [be[0].to_ne_bytes(), be[1].to_ne_bytes(), be[2].to_ne_bytes(), be[3].to_ne_bytes()];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_has_its_v4_mapped_form() {
        let be = u32::from_ne_bytes([127, 0, 0, 9]);
        assert_eq!(Flow::v4(be), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 9]);
        assert_eq!(Flow::v6([0, 0, u32::from_be(0xffff), be]), Flow::v4(be));
    }
}
