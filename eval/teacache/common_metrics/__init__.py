"""PSNR, SSIM and LPIPS of folders of videos."""
