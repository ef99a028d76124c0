/** `bun run lint:config`: writes .oxlintrc.json from layers.ts and lint-config.ts. */
import { printLintConfig } from './lint-config.ts';

await Bun.write(`${import.meta.dir}/../../.oxlintrc.json`, printLintConfig());
