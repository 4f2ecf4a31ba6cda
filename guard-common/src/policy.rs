/// What stands in the object for the cookie of a network namespace; the guard writes the cookie there before it loads the
/// instance of `steer` for that namespace.
pub const NETNS_UNSET: u64 = u64::from_ne_bytes(*b"mg-netns");

/// `Rule::mode`: only the guard's own flows reach the server, everything else is steered to the guard.
pub const MODE_GUARDED: u32 = 1;
/// `Rule::mode`: a listener of the guard that is reached by steering only, never by address.
pub const MODE_PRIVATE: u32 = 2;

/// `Rule::mode`, at [`ANYWHERE`]: a server in some other namespace has this port. The guard is told of each new listener on
/// it, in namespaces that it does not know too.
pub const MODE_AWAITED: u32 = 3;
/// `Port::netns` of [`MODE_AWAITED`]; no namespace has this cookie.
pub const ANYWHERE: u64 = 0;

/// `Rule::flags`: the kill switch. Nobody reaches the port, the guard neither.
pub const FLAG_BLOCKED: u32 = 1;
/// `Rule::flags`: closed until the guard serves it. Nobody reaches the port. The programs take an entry of PENDING for such a
/// rule.
pub const FLAG_CLOSED: u32 = 2;

/// Index into SWITCHES: 1 refuses every protected port.
pub const SWITCH_BLOCK_ALL: u32 = 0;
/// Index into SWITCHES: [`WALL_OFF`], [`WALL_COUNT`] or [`WALL_ENFORCE`].
pub const SWITCH_WALL: u32 = 1;
/// Entries of SWITCHES.
pub const SWITCHES: u32 = 4;

/// The second wall lets everything pass.
pub const WALL_OFF: u32 = 0;
/// It counts what it would drop.
pub const WALL_COUNT: u32 = 1;
/// It drops.
pub const WALL_ENFORCE: u32 = 2;

/// Key of POLICY, PENDING, APPROVED, TALLY, TRUST and HOLDERS.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Network namespace cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// Port, host byte order.
    pub port: u16,
    /// Always zero.
    pub zero: [u16; 3],
}

impl Port {
    /// The key of `port` in the namespace with this cookie.
    #[inline(always)]
    pub const fn new(netns: u64, port: u16) -> Self {
        Self { netns, port, zero: [0; 3] }
    }
}

/// Value of POLICY.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// [`MODE_GUARDED`], [`MODE_PRIVATE`] or [`MODE_AWAITED`].
    pub mode: u32,
    /// [`FLAG_BLOCKED`] and [`FLAG_CLOSED`], or zero.
    pub flags: u32,
    /// Which start of the guard wrote it.
    pub generation: u32,
    /// Always zero.
    pub zero: u32,
    /// First 8 bytes of the SHA-256 of the server's name, big-endian; zero: none.
    pub server: u64,
}

/// Value of PENDING: a listener that nobody has approved. The port is closed unless APPROVED has the same `at`, or POLICY a
/// rule. Whoever listens anew makes a new `at`, so an approval holds only for those who listened when it was given.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// When somebody began to listen, in nanoseconds since boot.
    pub at: u64,
    /// The watched cgroup.
    pub watched: u64,
    /// As in `Rule::server`; zero: the cgroup is watched for its own sake.
    pub server: u64,
}

/// Value of TALLY, per CPU: what came to one port.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Connections given to the guard.
    pub steered: u64,
    /// The guard's connections given to the server.
    pub own: u64,
    /// Connections refused for want of a guard or a server, or because the kernel did not take the socket.
    pub refused: u64,
    /// UDP packets refused.
    pub udp: u64,
    /// Connections refused by the kill switch.
    pub blocked: u64,
    /// Connections refused because the guard does not serve the port yet.
    pub pending: u64,
    /// Packets that the second wall dropped.
    pub dropped: u64,
    /// Packets that the second wall would have dropped while it only counted.
    pub counted: u64,
    /// Binds refused.
    pub binds: u64,
    /// Connections given to the guard whose handshake was finished: as many wait for its `accept`, or had it.
    pub established: u64,
}

impl Tally {
    /// A tally of nothing.
    pub const ZERO: Self = Self {
        steered: 0,
        own: 0,
        refused: 0,
        udp: 0,
        blocked: 0,
        pending: 0,
        dropped: 0,
        counted: 0,
        binds: 0,
        established: 0,
    };

    /// Adds what another CPU counted.
    pub fn add(&mut self, other: &Self) {
        self.steered += other.steered;
        self.own += other.own;
        self.refused += other.refused;
        self.udp += other.udp;
        self.blocked += other.blocked;
        self.pending += other.pending;
        self.dropped += other.dropped;
        self.counted += other.counted;
        self.binds += other.binds;
        self.established += other.established;
    }
}

const _: () = assert!(size_of::<Port>() == 16);
const _: () = assert!(size_of::<Rule>() == 24);
const _: () = assert!(size_of::<Pending>() == 24);
const _: () = assert!(size_of::<Tally>() == 80);
