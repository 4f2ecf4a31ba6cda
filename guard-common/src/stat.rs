/// What a program counted; the index into STATS.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// A connection was given to the guard.
    Steered = 0,
    /// A connection of the guard was given to the pinned server.
    Own = 1,
    /// Refused: no guard is alive.
    NoGuard = 2,
    /// Refused: the guard connected, but no server is pinned.
    NoServer = 3,
    /// Refused: UDP (or another protocol) to a protected port.
    Udp = 4,
    /// Refused: the guard's private port was addressed directly.
    Private = 5,
    /// Refused: the kernel did not take the socket that we chose.
    Assign = 6,
    /// A socket in the guard's cgroup connected to a protected port without being registered.
    NotRegistered = 7,
    /// An upstream flow could not be recorded (FLOWS is full); its connection ends at the guard.
    FlowsFull = 8,
    /// A local client's identity could not be recorded.
    WhoLost = 9,
    /// A listener's event could not be sent; the periodic scan finds it.
    EventLost = 10,
}

impl Stat {
    /// Every counter with the name that `status` shows.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Steered, "steered"),
        (Self::Own, "own"),
        (Self::NoGuard, "refused_no_guard"),
        (Self::NoServer, "refused_no_server"),
        (Self::Udp, "refused_udp"),
        (Self::Private, "refused_private"),
        (Self::Assign, "refused_assign"),
        (Self::NotRegistered, "not_registered"),
        (Self::FlowsFull, "flows_full"),
        (Self::WhoLost, "who_lost"),
        (Self::EventLost, "event_lost"),
    ];
    /// Entries of STATS.
    pub const COUNT: u32 = 11;
}

const _: () = assert!(Stat::ALL.len() == Stat::COUNT as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_stands_at_its_own_index() {
        for (index, (stat, _)) in Stat::ALL.iter().enumerate() {
            assert_eq!(*stat as usize, index);
        }
    }
}
