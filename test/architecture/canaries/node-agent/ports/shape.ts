export interface Shape {
  readonly sizeBytes: number;
}
