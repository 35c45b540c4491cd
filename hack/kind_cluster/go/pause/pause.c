/* pause holds a Pod's namespaces open: it waits for the end, and collects the children of others when it is their process 1. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal_number) {
	(void)signal_number;
	_exit(0);
}

static void collect(int signal_number) {
	(void)signal_number;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

int main(void) {
	struct sigaction ending = {.sa_handler = end};
	struct sigaction collecting = {.sa_handler = collect, .sa_flags = SA_NOCLDSTOP};

	if (sigaction(SIGINT, &ending, NULL) || sigaction(SIGTERM, &ending, NULL) || sigaction(SIGCHLD, &collecting, NULL)) {
		return 1;
	}
	for (;;) {
		pause();
	}
}
