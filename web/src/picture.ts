// Pictures that a reader chooses: read by the browser, and refused unless they are twice as wide as high.

import { text } from "./i18n";

const TOLERANCE = 0.01; // as panollava.corpus.image_files has it

/** A picture that is no panorama; the message is for the reader. */
export class NoPanorama extends Error {}

/** Return a URL of a picture, once the browser has decoded it; throws NoPanorama. */
export async function opened(picture: Blob, name: string): Promise<string> {
  const url = URL.createObjectURL(picture);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new NoPanorama(text("noPicture", { name }));
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  if (Math.abs(width / height - 2) > 2 * TOLERANCE) {
    URL.revokeObjectURL(url);
    throw new NoPanorama(text("notTwoToOne", { name, width, height, height2: Math.round(width / 2) }));
  }
  return url;
}
