/** The contract of DeviceMemory as tests of vitest: one a case. */
import { describe, test } from 'vitest';
import { deviceMemoryCases, runContractCase, type ContractNeed, type DeviceMemoryUnderTest } from './device-memory-contract.ts';

/** `can`: what the memory can do beyond the port; cases that need more are no tests of it. */
export function describeDeviceMemory(
  name: string,
  begin: () => DeviceMemoryUnderTest | Promise<DeviceMemoryUnderTest>,
  can: readonly ContractNeed[],
): void {
  describe(`${name} as DeviceMemory`, () => {
    for (const contractCase of deviceMemoryCases) {
      if (contractCase.needs !== undefined && !can.includes(contractCase.needs)) continue;
      test(contractCase.name, () => runContractCase(contractCase, begin));
    }
  });
}
