// Serves an empty MongoDB in memory on 127.0.0.1 at a port of the caller's choice; the library's own main has a fixed one.

import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.util.List;

class Serve {
    // A claim only: the library's own newest version says 8, which pymongo no longer takes. What the tests ask of it
    // (inserts and finds) is the same in both.
    private static final class Presented implements MongoVersion {
        public List<Integer> getVersionArray() {
            return List.of(4, 4, 0);
        }

        public int getWireVersion() {
            return 9;
        }
    }

    public static void main(String[] arguments) {
        new MongoServer(new MemoryBackend().version(new Presented())).bind("127.0.0.1", Integer.parseInt(arguments[0]));
    }
}
