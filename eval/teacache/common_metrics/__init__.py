"""PSNR, SSIM and LPIPS between folders of videos."""
