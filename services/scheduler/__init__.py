"""The scheduler: owns tenant → shard → worker and network → resources, delivers events, keeps what must not be lost."""
