"""Write the views of py360convert that the tests compare ours with: `python tests/vlm/py360convert_views.py`.

Needs py360convert (the extra `bench`). The panorama is noise, the hardest case, from a fixed seed. Interpolation is
scipy's, which is exact: through OpenCV, where that is installed, py360convert rounds positions to 1/32 pixel.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("py360convert_views.npz")
SIZE = 24
# Yaw, pitch, in-plane rotation and field of view in degrees, as py360convert takes them.
VIEWS = ((0, 0, 0, 90), (45, 0, 0, 90), (170, 20, 0, 75), (-180, -35, 0, 60), (-60, 10, 0, 100))


def main() -> None:
    """Write the panorama and the views."""
    import py360convert.utils

    py360convert.utils.cv2 = None
    panorama = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    views = [
        py360convert.e2p(panorama, fov, yaw, pitch, (SIZE, SIZE), in_rot_deg=roll, mode="bilinear")
        for yaw, pitch, roll, fov in VIEWS
    ]
    np.savez_compressed(FILE, panorama=panorama, views=np.stack(views))


if __name__ == "__main__":
    main()
