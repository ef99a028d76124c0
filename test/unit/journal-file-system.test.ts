import { describeFileSystem } from '../support/file-system-contract.ts';
import { SimFileSystem } from '../support/sim-file-system.ts';

describeFileSystem('SimFileSystem', () => {
  const fileSystem = new SimFileSystem();
  fileSystem.mkdir('/data');
  return { fileSystem, folder: '/data', dispose: () => undefined };
});
