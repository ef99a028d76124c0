/** What the host tells of the machine while the agent runs. */

/** Memory of the cgroup. Events count since the group was made; averages are percent of the last 10 s in which tasks waited for memory. */
export interface MemoryReading {
  readonly high: number;
  readonly max: number;
  readonly oom: number;
  readonly oomKill: number;
  readonly currentBytes: number;
  /** Undefined: no limit of its own. */
  readonly limitBytes: number | undefined;
  /** Some task waited. */
  readonly someAvg10: number;
  /** All tasks waited. */
  readonly fullAvg10: number;
}

export interface MachineProbes {
  /** Undefined where the kernel does not tell. */
  readonly readMemory: () => MemoryReading | undefined;
  /** -1: none is left. */
  readonly lowestFreeDescriptor: () => number;
  /** Descriptors that this process may have. */
  readonly descriptorLimit: number;
}
