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
    /// Refused by the kill switch.
    Blocked = 11,
    /// Refused: nobody has approved the listener.
    Pending = 12,
    /// A packet that the second wall dropped.
    Dropped = 13,
    /// A packet that the second wall would have dropped.
    Counted = 14,
    /// A bind that was refused: another cgroup holds the port.
    Bind = 15,
    /// A `connect` from a blocked cgroup that was refused.
    BlockedCgroup = 16,
    /// A `connect`, datagram or packet that a server's lock-down refused.
    Egress = 17,
    /// The event of a refusal could not be sent; it is counted all the same.
    DeniedLost = 18,
    /// A new listener in a watched cgroup had no room in PENDING: the cgroup is shut instead.
    PendingFull = 19,
    /// A port could not be counted by itself: TALLY is full.
    TallyFull = 20,
}

impl Stat {
    /// Every counter with the name that `status` shows.
    pub const ALL: [(Self, &'static str); 21] = [
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
        (Self::Blocked, "refused_blocked"),
        (Self::Pending, "refused_pending"),
        (Self::Dropped, "wall_dropped"),
        (Self::Counted, "wall_counted"),
        (Self::Bind, "bind_refused"),
        (Self::BlockedCgroup, "refused_cgroup"),
        (Self::Egress, "egress_refused"),
        (Self::DeniedLost, "denied_lost"),
        (Self::PendingFull, "pending_full"),
        (Self::TallyFull, "tally_full"),
    ];
    /// Entries of STATS.
    pub const COUNT: u32 = 21;
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
