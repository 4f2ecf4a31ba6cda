//! Reads a packet's addresses and ports, for the programs that see packets.

use aya_ebpf::programs::SkBuffContext;
use guard_common::{Address, Flow};

pub const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_LITE: u8 = 136;
const SCTP: u8 = 132;
const DCCP: u8 = 33;

/// IPv6 extension headers that are walked; a packet with more is taken for a fragment.
const EXTENSIONS_MAX: u32 = 8;

/// What a packet is.
pub enum Packet {
    /// It has ports.
    Ports(Ports),
    /// It has none that can be read: a fragment, or cut short.
    Unreadable,
    /// Another protocol, with its destination.
    Other(Address),
}

/// Where a packet comes from and goes to.
pub struct Ports {
    pub protocol: u8,
    pub src: Address,
    pub src_port: u16,
    pub dst: Address,
    pub dst_port: u16,
    /// TCP that carries no byte and opens nothing.
    pub is_bare: bool,
    /// TCP that opens a connection.
    pub is_opening: bool,
}

impl Ports {
    /// The connection, as the side that opened it sees it.
    #[inline(always)]
    pub fn flow(&self, netns: u64) -> Flow {
        Flow::new(netns, self.src, self.src_port, self.dst, self.dst_port)
    }

    /// The connection to which this packet answers.
    #[inline(always)]
    pub fn answered(&self, netns: u64) -> Flow {
        Flow::new(netns, self.dst, self.dst_port, self.src, self.src_port)
    }
}

/// Reads the packet from its IP header on, which is where these programs get it.
#[inline(always)]
pub fn read(ctx: &SkBuffContext) -> Packet {
    match ctx.load::<u8>(0) {
        Ok(first) if first >> 4 == 4 => v4(ctx, first),
        Ok(first) if first >> 4 == 6 => v6(ctx),
        _ => Packet::Unreadable,
    }
}

#[inline(always)]
fn v4(ctx: &SkBuffContext, first: u8) -> Packet {
    const MORE_OR_OFFSET: u16 = 0x3fff;
    let (Ok(part), Ok(protocol), Ok(src), Ok(dst)) =
        (ctx.load::<u16>(6), ctx.load::<u8>(9), ctx.load::<u32>(12), ctx.load::<u32>(16))
    else {
        return Packet::Unreadable;
    };
    let (src, dst) = (Flow::v4(src), Flow::v4(dst));
    if u16::from_be(part) & MORE_OR_OFFSET != 0 {
        return Packet::Unreadable;
    }
    ports(ctx, protocol, u32::from(first & 0xf) * 4, src, dst)
}

#[inline(always)]
fn v6(ctx: &SkBuffContext) -> Packet {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    let (Ok(mut next), Ok(src), Ok(dst)) =
        (ctx.load::<u8>(6), ctx.load::<[u32; 4]>(8), ctx.load::<[u32; 4]>(24))
    else {
        return Packet::Unreadable;
    };
    let (src, dst) = (Flow::v6(src), Flow::v6(dst));
    let mut at: u32 = 40;
    for _ in 0..EXTENSIONS_MAX {
        let unit = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => 8,
            AUTHENTICATION => 4,
            FRAGMENT => {
                // Offset and "more"; both zero: the packet is whole.
                match (ctx.load::<u16>(at as usize + 2), ctx.load::<u8>(at as usize)) {
                    (Ok(part), Ok(after)) if u16::from_be(part) & 0xfff9 == 0 => {
                        next = after;
                        at += 8;
                        continue;
                    }
                    _ => return Packet::Unreadable,
                }
            }
            protocol => return ports(ctx, protocol, at, src, dst),
        };
        let Ok([after, length]) = ctx.load::<[u8; 2]>(at as usize) else { return Packet::Unreadable };
        next = after;
        // The length leaves out the first eight bytes.
        at += u32::from(length) * unit + 8;
    }
    Packet::Unreadable
}

#[inline(always)]
fn ports(ctx: &SkBuffContext, protocol: u8, at: u32, src: Address, dst: Address) -> Packet {
    if !matches!(protocol, TCP | UDP | UDP_LITE | SCTP | DCCP) {
        return Packet::Other(dst);
    }
    let Ok([src_port, dst_port]) = ctx.load::<[u16; 2]>(at as usize) else { return Packet::Unreadable };
    let is_bare = protocol == TCP && is_bare(ctx, at);
    Packet::Ports(Ports {
        protocol,
        src,
        src_port: u16::from_be(src_port),
        dst,
        dst_port: u16::from_be(dst_port),
        is_bare,
        is_opening: protocol == TCP && is_opening(ctx, at),
    })
}

/// What cannot be read opens no connection either way.
#[inline(always)]
fn is_opening(ctx: &SkBuffContext, at: u32) -> bool {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    ctx.load::<u8>(at as usize + 13).map_or(true, |flags| flags & (SYN | ACK) == SYN)
}

#[inline(always)]
fn is_bare(ctx: &SkBuffContext, at: u32) -> bool {
    const SYN: u8 = 2;
    // Length of the header in words in the upper half of the first byte; flags in the second.
    let Ok([offset, flags]) = ctx.load::<[u8; 2]>(at as usize + 12) else { return false };
    flags & SYN == 0 && at + u32::from(offset >> 4) * 4 == ctx.len()
}
