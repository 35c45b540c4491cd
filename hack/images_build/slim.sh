#!/bin/sh
# Takes out of a Debian image with Python what a service does not need, while the image is built (see Dockerfile).
#
# Works on official images (Python in /usr/local) and on those of `hack/images base` (Debian's own Python). Packages are purged through
# dpkg, so that its list goes on telling the truth; their scripts are not run, since they would want each other.
set -eu

unwanted="
  adduser apt libapt-pkg6.0 gpgv debian-archive-keyring debconf libdebconfclient0 init-system-helpers usr-is-merged
  bash perl-base e2fsprogs libext2fs2 libss2 logsave mount login passwd util-linux util-linux-extra bsdutils sysvinit-utils
  libpam-modules libpam-modules-bin libpam-runtime libpam0g libsemanage-common libsemanage2 libsepol2 libaudit1 libaudit-common
  libdb5.3 libcap-ng0 libudev1 libsystemd0 libgcrypt20 libgpg-error0 libsmartcols1 libmount1 libblkid1 liblz4-1
  libgnutls30 libp11-kit0 libnettle8 libhogweed6 libtasn1-6 libunistring2 libidn2-0 libxxhash0 libseccomp2
  ncurses-bin openssl tzdata diffutils
"
installed=""
for package in $unwanted; do
  if dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii'; then installed="$installed $package"; fi
done
rm -f /var/lib/dpkg/info/*.prerm /var/lib/dpkg/info/*.postrm /var/lib/dpkg/info/*.triggers
# shellcheck disable=SC2086 # one word for each package
dpkg --purge --force-all $installed >/tmp/purge.log 2>&1 || { cat /tmp/purge.log >&2; exit 1; }
rm -rf /usr/bin/dpkg* /usr/sbin/dpkg* /usr/share/dpkg /usr/lib/dpkg /etc/dpkg /etc/apt
find /var/lib/dpkg -mindepth 1 ! -name status -delete

for library in /usr/local/lib/python3.* /usr/lib/python3.*; do
  [ -d "$library" ] || continue
  for unneeded in ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo distutils config-3.*; do
    rm -rf "$library"/$unneeded
  done
  for unneeded in pip setuptools wheel pkg_resources _distutils_hack distutils-precedence.pth; do
    rm -rf "$library"/site-packages/$unneeded "$library"/site-packages/$unneeded-*
  done
done
rm -rf /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/2to3* /usr/local/bin/pydoc* /usr/local/bin/wheel \
  /usr/local/bin/python*-config /usr/local/include /usr/local/lib/pkgconfig /usr/local/lib/libpython3.*.a /usr/include /usr/src
rm -rf /usr/share/locale /usr/share/man /usr/share/info /usr/share/bash-completion /usr/share/lintian /usr/share/common-licenses/GFDL* \
  /usr/share/pam /usr/share/zoneinfo /usr/lib/*-linux-gnu/gconv /usr/share/i18n /usr/share/perl5 /usr/share/debconf /usr/share/keyrings /var/cache/* /var/lib/apt /var/log/* /var/backups \
  /root/.cache /tmp/*
find /usr/share/doc ! -type d ! -name copyright -delete
find / -xdev -type f -perm /6000 -exec chmod a-s {} +
