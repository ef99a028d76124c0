import { expect, test } from 'vitest';
import { checkLayouts, CONTEXT_PARAMS_BYTES, contextField, type FillDefaults, MODEL_PARAMS_BYTES } from '#engines/llama/struct-layouts.ts';

/** A library that writes what the pinned build writes, or with `change` something else. */
function fills(change: (view: DataView) => void = () => undefined): { readonly model: FillDefaults; readonly context: FillDefaults } {
  const copyBut = (source: Uint8Array, target: Uint8Array, holes: readonly number[]): void => {
    for (const [index, byte] of source.entries()) if (!holes.includes(index)) target[index] = byte;
  };
  return {
    model(target) {
      const view = new DataView(new ArrayBuffer(MODEL_PARAMS_BYTES));
      view.setInt32(16, -1, true);
      view.setInt32(20, 1, true);
      copyBut(new Uint8Array(view.buffer), target, [36, 37, 38, 39, 78, 79]);
    },
    context(target) {
      const view = new DataView(new ArrayBuffer(CONTEXT_PARAMS_BYTES));
      const values = { 0: 512, 4: 2048, 8: 512, 12: 1, 28: 4, 32: 4, 52: -1, 104: 1, 108: 1 };
      for (const [offset, value] of Object.entries(values)) view.setInt32(Number(offset), value, true);
      change(view);
      copyBut(new Uint8Array(view.buffer), target, [134, 135]);
    },
  };
}

test('the layouts of the pinned build pass', () => {
  expect(() => checkLayouts(fills())).not.toThrow();
});

test('a default in another place, a field more and a field less are refused', () => {
  expect(() => checkLayouts(fills((view) => view.setInt32(contextField.typeK, 0, true)))).toThrow(/holds 0 at byte 104, wanted 1/);
  const good = fills();
  const longer: FillDefaults = (target) => {
    good.context(target);
    target[CONTEXT_PARAMS_BYTES] = 0;
  };
  expect(() => checkLayouts({ ...good, context: longer })).toThrow(/has a field at byte 160/);
  const shorter: FillDefaults = (target) => {
    const keep = target[159] ?? 0;
    good.context(target);
    target[159] = keep;
  };
  expect(() => checkLayouts({ ...good, context: shorter })).toThrow(/has no field at byte 159/);
  const padded: FillDefaults = (target) => {
    good.model(target);
    target[36] = 0;
  };
  expect(() => checkLayouts({ ...good, model: padded })).toThrow(/llama_model_params has a field at byte 36/);
});
